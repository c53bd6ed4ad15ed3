"""What no schema knows: that names, labels, ports and times of different objects fit each other, in every overlay."""

import copy

import yaml

from cluster import selected
from manifests import (
    BIN, OVERLAYS, command, difference, documents, helm, key, kustomize, of_kind, pods, seconds, selects, workloads,
)

INJECTOR = "outrigger-injector"
ENABLED, ISTIOS, OURS = {"istio-injection": "enabled"}, {"istio.io/rev": "default"}, {"istio.io/rev": "outrigger"}
YES, NO = {"sidecar.istio.io/inject": "true"}, {"sidecar.istio.io/inject": "false"}
# Labels of the namespace, labels of the pod, and who injects: the table of docs/howto/migrate-from-istio-proxy.md.
BESIDE_ISTIO = [
    ({}, {}, None), ({}, YES, "Istio"), ({}, ISTIOS, "Istio"), ({}, OURS, "Outrigger"), ({}, YES | OURS, "Outrigger"),
    *[(ENABLED, pod, "Istio") for pod in ({}, YES, OURS, YES | OURS)],
    *[(ISTIOS, pod, "Istio") for pod in ({}, YES, OURS, YES | OURS)],
    *[(OURS, pod, "Outrigger") for pod in ({}, YES, OURS, YES | OURS)],
    *[(namespace, NO | pod, None) for namespace in ({}, ENABLED, ISTIOS, OURS) for pod in ({}, OURS)],
]
NEVER_INJECTED = {"outrigger-system", "kube-system", "kube-public", "kube-node-lease"}


def run(suite):
    rendered = {path: kustomize(path) for path in OVERLAYS} | {"k8s/chart": helm()}
    for path, objects in rendered.items():
        for check in (
            services_reach_pods, ingresses_reach_services, budgets_and_scalers_have_targets, probes_have_ports,
            pods_are_restricted, pods_find_what_they_name, images_agree, grace_is_enough, memory_fits, roll_out_whole,
            injector_is_safe,
        ):
            with suite.check(f"{path}: {check.__name__.replace('_', ' ')}"):
                check(objects)
    with suite.check("the base runs three collectors and one canary"):
        replicas = {key(thing): thing["spec"]["replicas"] for thing in of_kind(rendered["k8s/base"], "Deployment")}
        assert replicas["Deployment observability/otlp-collector-v1"] == 3, replicas
        assert replicas["Deployment observability/otlp-collector-v2"] == 1, replicas
    same = "`outrigger webhook --print-manifests` prints the injector and the role of the base"
    if "webhook" in command(BIN / "outrigger", "--help").split():
        with suite.check(same):
            as_printed(rendered["k8s/base"])
    else:
        suite.skip(same, "this build has no `outrigger webhook`")
    with suite.check("beside Istio each pod has the injector that the how-to page says"):
        beside_istio(rendered["k8s/overlays/istio"])


def services_reach_pods(objects):
    for service in of_kind(objects, "Service"):
        selected = [
            spec
            for _, namespace, metadata, spec in pods(objects)
            if namespace == service["metadata"]["namespace"]
            and selects(service["spec"]["selector"], metadata["labels"])
        ]
        assert selected, f"{key(service)} selects no pod"
        for spec in selected:
            ports = {port["name"] for container in spec["containers"] for port in container.get("ports", [])}
            for port in service["spec"]["ports"]:
                assert port["targetPort"] in ports, f"{key(service)}: no pod has the port {port['targetPort']}"
                assert port["appProtocol"], f"{key(service)}: {port['name']} has no appProtocol"


def ingresses_reach_services(objects):
    services = {key(service): service for service in of_kind(objects, "Service")}
    for ingress in of_kind(objects, "Ingress"):
        namespace, spec = ingress["metadata"]["namespace"], ingress["spec"]
        secured = {host for tls in spec["tls"] for host in tls["hosts"]}
        for rule in spec["rules"]:
            assert rule["host"] in secured, f"{key(ingress)}: {rule['host']} has no TLS"
            for path in rule["http"]["paths"]:
                backend = path["backend"]["service"]
                service = services[f"Service {namespace}/{backend['name']}"]
                names = [port["name"] for port in service["spec"]["ports"]]
                assert backend["port"]["name"] in names, f"{key(ingress)}: {backend}"


def budgets_and_scalers_have_targets(objects):
    for budget in of_kind(objects, "PodDisruptionBudget"):
        selector = budget["spec"]["selector"]["matchLabels"]
        assert any(selects(selector, metadata["labels"]) for _, _, metadata, _ in pods(objects)), key(budget)
    for scaler in of_kind(objects, "HorizontalPodAutoscaler"):
        spec, namespace = scaler["spec"], scaler["metadata"]["namespace"]
        target = f"{spec['scaleTargetRef']['kind']} {namespace}/{spec['scaleTargetRef']['name']}"
        [workload] = [thing for thing in workloads(objects) if key(thing) == target]
        assert spec["minReplicas"] <= workload["spec"]["replicas"] <= spec["maxReplicas"], target
        containers = {container["name"] for container in workload["spec"]["template"]["spec"]["containers"]}
        for metric in spec["metrics"]:
            assert metric["containerResource"]["container"] in containers, metric


def probes_have_ports(objects):
    for name, _, _, spec in pods(objects):
        if spec.get("restartPolicy") == "Never":
            continue
        for container in spec["containers"]:
            ports = {port["name"] for port in container["ports"]}
            for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
                assert container[probe]["httpGet"]["port"] in ports, f"{name}: {probe}"


def pods_are_restricted(objects):
    """Kubernetes' Pod Security Standard `restricted`, and a file system that cannot be written to."""
    for name, _, _, spec in pods(objects):
        pod = spec["securityContext"]
        assert pod["runAsNonRoot"] is True and pod["runAsUser"] > 0, name
        assert pod["seccompProfile"]["type"] == "RuntimeDefault", name
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            assert not spec.get(field), f"{name}: {field}"
        for volume in spec.get("volumes", []):
            assert set(volume) - {"name"} <= {"configMap", "secret", "emptyDir", "projected"}, f"{name}: {volume}"
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["readOnlyRootFilesystem"] is True, name
            assert own["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}, name
            assert container["resources"]["limits"]["memory"], name


def pods_find_what_they_name(objects):
    known = {key(thing) for thing in objects}
    for name, namespace, _, spec in pods(objects):
        account = spec.get("serviceAccountName")
        assert account is None or f"ServiceAccount {namespace}/{account}" in known, f"{name}: {account}"
        # Only the injector talks to the API server.
        token = spec["automountServiceAccountToken"]
        assert token is (account == "outrigger-webhook"), f"{name}: token {token}"
        for volume in spec.get("volumes", []):
            if "configMap" in volume:
                config = f"ConfigMap {namespace}/{volume['configMap']['name']}"
                assert config in known, f"{name}: there is no {config}"


def images_agree(objects):
    for deployment in of_kind(objects, "Deployment"):
        for container in deployment["spec"]["template"]["spec"]["containers"]:
            assert not container["image"].endswith(":latest"), container["image"]
            for variable in container.get("env", []):
                if variable["name"] == "OUTRIGGER_IMAGE":
                    assert variable["value"] == container["image"], f"injected is {variable['value']}"


def collector_configurations(objects):
    """Each collector workload with the configuration that it mounts."""
    maps = {key(thing): thing for thing in of_kind(objects, "ConfigMap")}
    for name, namespace, metadata, spec in pods(objects):
        for volume in spec.get("volumes", []):
            if metadata["labels"]["app.kubernetes.io/name"] == "otlp-collector" and "configMap" in volume:
                text = maps[f"ConfigMap {namespace}/{volume['configMap']['name']}"]["data"]["collector.yaml"]
                yield name, spec, text


def grace_is_enough(objects):
    """The kubelet must not kill what the collector still delivers."""
    for name, spec, text in collector_configurations(objects):
        shutdown = yaml.safe_load(text)["service"]["shutdown"]
        takes = sum(seconds(value) for value in shutdown.values())
        assert takes + 5 <= spec["terminationGracePeriodSeconds"], f"{name}: stops within {takes} s"


def memory_fits(objects):
    """What the collector holds at most has to fit into its container, with a fifth to spare."""
    for name, spec, text in collector_configurations(objects):
        [container] = spec["containers"]
        environment = {variable["name"]: variable["value"] for variable in container.get("env", [])}
        limiter = yaml.safe_load(text)["processors"]["memory_limiter"]
        limit = int(environment.get("OUTRIGGER__processors__memory_limiter__limit_mib", limiter["limit_mib"]))
        room = container["resources"]["limits"]["memory"]
        room = int(room[:-2]) * {"Mi": 1, "Gi": 1024}[room[-2:]]
        assert limit <= 0.8 * room, f"{name}: {limit} MiB of {room}"


def roll_out_whole(objects):
    for deployment in of_kind(objects, "Deployment"):
        strategy = deployment["spec"]["strategy"]
        assert strategy["rollingUpdate"]["maxUnavailable"] == 0, key(deployment)


def injector_is_safe(objects):
    """A mistake here stops a cluster: who is never asked, and what happens while nobody answers."""
    [injector] = of_kind(objects, "MutatingWebhookConfiguration")
    assert injector["metadata"]["name"] == INJECTOR
    [role] = of_kind(objects, "ClusterRole")
    [rule] = role["rules"]
    assert rule["resourceNames"] == [INJECTOR] and "*" not in rule["verbs"], rule
    services = {key(service): service for service in of_kind(objects, "Service")}
    [revision] = [
        variable["value"]
        for deployment in of_kind(objects, "Deployment")
        for container in deployment["spec"]["template"]["spec"]["containers"]
        for variable in container.get("env", [])
        if variable["name"] == "OUTRIGGER_REVISION"
    ]
    for webhook in injector["webhooks"]:
        for selector in ("namespaceSelector", "objectSelector"):
            for expression in webhook[selector]["matchExpressions"]:
                if (expression["key"], expression["operator"]) == ("istio.io/rev", "In"):
                    assert expression["values"] == [revision], f"{webhook['name']}: the webhook calls itself {revision}"
        [excluded] = [
            expression["values"]
            for expression in webhook["namespaceSelector"]["matchExpressions"]
            if expression["key"] == "kubernetes.io/metadata.name" and expression["operator"] == "NotIn"
        ]
        assert NEVER_INJECTED <= set(excluded), webhook["name"]
        fields = ("failurePolicy", "sideEffects", "reinvocationPolicy", "timeoutSeconds", "admissionReviewVersions")
        assert [webhook[field] for field in fields] == ["Fail", "None", "Never", 10, ["v1"]], webhook["name"]
        client = webhook["clientConfig"]["service"]
        service = services[f"Service {client['namespace']}/{client['name']}"]
        assert client["port"] in [port["port"] for port in service["spec"]["ports"]], webhook["name"]


def beside_istio(objects):
    """Istio's injector has the selectors that the base has, with its own revision: no pod may have both."""
    [ours] = of_kind(objects, "MutatingWebhookConfiguration")
    [istios] = of_kind(kustomize("k8s/base"), "MutatingWebhookConfiguration")
    istios = yaml.safe_load(yaml.safe_dump(istios).replace("- outrigger\n", "- default\n"))

    def answers(injector, namespace, pod):
        return any(
            selected(webhook["namespaceSelector"], {"kubernetes.io/metadata.name": "shop"} | namespace)
            and selected(webhook["objectSelector"], pod)
            for webhook in injector["webhooks"]
        )

    for namespace, pod, injector in BESIDE_ISTIO:
        found = [name for name, each in (("Istio", istios), ("Outrigger", ours)) if answers(each, namespace, pod)]
        assert found == [injector] * (injector is not None), f"{pod} in {namespace}: {found}, not {injector}"


def as_printed(base):
    """The webhook can print what it needs for those who use neither Kustomize nor Helm: there must be no two truths."""
    printed = documents(command(BIN / "outrigger", "webhook", "--print-manifests", "--revision", "outrigger"))

    def essence(objects):
        [injector] = of_kind(objects, "MutatingWebhookConfiguration")
        [role] = of_kind(objects, "ClusterRole")
        for webhook in injector["webhooks"]:
            for selector in ("namespaceSelector", "objectSelector"):
                for expression in webhook[selector]["matchExpressions"]:
                    expression.get("values", []).sort()
        return {"webhooks": injector["webhooks"], "rules": role["rules"]}

    wrong = difference(essence(copy.deepcopy(base)), essence(printed), "injector")
    assert not wrong, wrong
