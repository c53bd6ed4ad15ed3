"""What ejection_diff plays: scripts of requests, and the settings of outlier detection that each is played with."""

BAD, GOOD = "status/503", "ok"


def growth(script):
    """An ejection lasts longer each time; a success starts the count again, a client error is one."""
    script.to(0, BAD, BAD, GOOD, BAD, BAD, "status/404", BAD, "status/500", BAD, GOOD)
    for times in range(3):
        script.returns(0)
        script.to(0, BAD, BAD, BAD)
    script.returns(0)
    script.to(0, GOOD)


def decay(script):
    """Each sweep that finds a host healthy makes its next ejection shorter by one base time.

    Whether the sweep right after its return does is a matter of a millisecond in Envoy, so either will do.
    """
    script.to(0, BAD)
    for _ in range(2):
        script.returns(0)
        script.to(0, BAD)
    script.returns(0)
    script.healthy_for(2.4 * INTERVAL)
    script.to(0, BAD)
    script.returns(0, between=(2, 3))
    script.healthy_for(5.4 * INTERVAL)
    script.to(0, BAD)
    script.returns(0)


def share(script):
    """50 % of four hosts are two; an attempt in vain starts the count again, and succeeds once another has returned."""
    script.to(0, BAD, BAD)
    script.to(1, BAD, BAD)
    script.to(2, BAD, BAD, BAD, GOOD, BAD)
    script.returns(0)
    script.returns(1)
    script.to(2, BAD)
    script.to(0, GOOD)


def never(script):
    """Istio's default of 10 % ejects nothing of three hosts."""
    script.to(0, BAD, BAD, BAD)


def everyone(script):
    """100 %: no host is left, and without panic no answer."""
    for host in (0, 1, 2):
        script.to(host, BAD)
    script.to(0, GOOD, GOOD)
    for host in (0, 1, 2):
        script.returns(host)
    script.to(0, GOOD)


def panic(script):
    """Below the threshold the balancer goes by all hosts again."""
    script.to(0, BAD, GOOD)
    script.to(1, GOOD, BAD, GOOD)
    script.to(0, GOOD, GOOD)


def gateway(script):
    """502, 503 and 504 count, a 500 starts their count again, 5xx are off."""
    script.to(0, "status/500", "status/500", "status/500", "status/502", "status/500", "status/503", "status/504", GOOD)
    script.to(1, "status/599", "status/502", "status/501", "status/504", "status/404", "status/502", "never", GOOD)


def gateway_resets(script):
    """A connection that ends before the answer is a gateway error, however it ends."""
    script.to(0, "close", "reset", GOOD)
    script.to(1, "garbage", "half-head", GOOD)
    script.to(2, "two-lengths", "never", GOOD)


def both(script):
    """Gateway errors count twice: apart, and with all 5xx."""
    script.to(0, "status/503", "status/500", "status/503", "status/500", GOOD)
    script.to(1, "status/503", "status/503", "status/503", GOOD)


def local(script):
    """Connect errors have a count of their own that an answer ends, whatever it is; 5xx are counted apart."""
    script.refuse(0)
    script.to(0, GOOD, GOOD)
    script.listen(0)
    script.to(0, "status/500")
    script.refuse(0)
    script.to(0, GOOD, GOOD, GOOD, GOOD)
    script.listen(0)
    script.returns(0)
    script.to(0, GOOD, "status/500", "status/500", GOOD)


def local_after_connect(script):
    """A connection, new or pooled, ends the count of local errors: what fails on it never adds up."""
    script.to(0, "never", "never", "never", "never", GOOD)
    script.to(1, "close", "close", "reset", "garbage", GOOD)
    script.refuse(2)
    script.to(2, GOOD, GOOD)
    script.listen(2)
    script.to(2, "close")
    script.refuse(2)
    script.to(2, GOOD, GOOD, GOOD)
    script.listen(2)


def local_at_once(script):
    """With a threshold of one they do, on a new connection and on a pooled one; 5xx do not."""
    script.to(0, "close", GOOD)
    script.to(1, GOOD, "status/500", "status/500", "never", GOOD)


def codes(script):
    """Only the listed codes are errors, whatever their class; any other answer ends the count."""
    script.to(0, "status/500", "status/500", "status/500", "status/429", "status/500", "status/429", "status/503", GOOD)
    script.to(1, "close", "close", "close", GOOD)
    script.to(2, "status/503", "never", GOOD)


def codes_of_gateways(script):
    """A listed code of a gateway is one; a listed 4xx is not."""
    script.to(0, "status/429", "status/429", "status/429", "status/503", "status/429", "status/503", "status/503", GOOD)


def external(script):
    """Not split: a refused connection is a 503, a timeout a 504, a close a 500."""
    script.refuse(0)
    script.to(0, GOOD, GOOD, GOOD)
    script.listen(0)
    script.to(1, "never", "close", "status/500", GOOD)
    script.returns(0)
    script.returns(1)
    script.to(0, GOOD)


# A script that ejects a host again right after its return has to be done before the next sweep.
INTERVAL = 0.6
SWEPT = {"interval": INTERVAL, "base": 1.2, "percent": 100}
FAST = {"interval": 0.2, "base": 0.8, "percent": 100}
LONG = {"interval": 0.2, "base": 4.0, "percent": 100}
STOPS = {**LONG, "stops": True}
SPLIT = {"split_external_local_origin_errors": True}
# Script, hosts, what every scenario has (percent, panic threshold and error codes among it), and Envoy's settings.
SCENARIOS = [
    (growth, 3, SWEPT, {"consecutive_5xx": 3}),
    (decay, 2, SWEPT, {"consecutive_5xx": 1}),
    (share, 4, {**LONG, "percent": 50}, {"consecutive_5xx": 2}),
    (never, 3, {"interval": 0.2, "base": 0.8, "percent": 10}, {"consecutive_5xx": 1}),
    (everyone, 3, LONG, {"consecutive_5xx": 1}),
    (panic, 3, {**FAST, "base": 60, "panic": 50}, {"consecutive_5xx": 1}),
    (gateway, 3, {**FAST, "base": 60}, {"consecutive_5xx": 0, "consecutive_gateway_failure": 2}),
    (gateway_resets, 4, {**FAST, "base": 60}, {"consecutive_5xx": 0, "consecutive_gateway_failure": 2}),
    (both, 3, {**FAST, "base": 60}, {"consecutive_5xx": 4, "consecutive_gateway_failure": 3}),
    (local, 3, STOPS, {"consecutive_5xx": 2, "consecutive_local_origin_failure": 3, **SPLIT}),
    (local_after_connect, 3, {**STOPS, "base": 60}, {"consecutive_5xx": 2, "consecutive_local_origin_failure": 3, **SPLIT}),
    (local_at_once, 3, {**FAST, "base": 60}, {"consecutive_5xx": 5, "consecutive_local_origin_failure": 1, **SPLIT}),
    (codes, 4, {**FAST, "base": 60, "codes": [429, 503]}, {"consecutive_5xx": 2}),
    (codes_of_gateways, 3, {**FAST, "base": 60, "codes": [429, 503]}, {"consecutive_5xx": 0, "consecutive_gateway_failure": 2}),
    (external, 3, STOPS, {"consecutive_5xx": 3}),
]
