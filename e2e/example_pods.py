"""The examples of workloads, in pods: examples/inject with the rules of k8s/base, and examples/mtls between two pods.

A part of injected_pods.py, which starts the node.
"""

import glob
import os
import urllib.error

import namespaces
from kubelet import podman
from pages import commands
from pods import VIP, ask, deployment, inject, run
from processes import ROOT, check, wait_for


def runs_the_example(cluster):
    """examples/inject with the rules of k8s/base: what the how-to page asks the sidecar is answered."""
    with open(os.path.join(ROOT, "examples/inject/deployment.yaml"), encoding="utf-8") as file:
        workload, service = inject(file.read())["items"]
    cluster.config_maps["outrigger-mesh"] = read(os.path.join(ROOT, "k8s/base/mesh/rules"), "*-*.yaml")
    pod = cluster.pod("example", workload).start()
    wait_for("the example to be ready", pod.is_ready)
    status, headers, body = ask(f"{pod.address}:{pod.spec['containers'][0]['ports'][0]['containerPort']}", "/")
    check((status, headers["server"], body) == (200, "istio-envoy", "web\n"), f"{status} {headers} {body}")
    check(service["spec"]["ports"][0]["targetPort"] == "http", "the Service was changed")
    page = os.path.join(ROOT, "docs/howto/inject.md")
    asked = [command.text.split(" -- ")[1].split() for command in commands(page, page) if command.text.startswith("kubectl exec")]
    check(len(asked) == 2, f"the page asks the sidecar {asked}")
    for words in asked:
        podman("exec", pod.container("istio-proxy").id, *words)
    codes = pod.terminate()
    check(codes["istio-proxy"] == 0, f"the sidecar ended with {codes}")


def encrypts(cluster, folder):
    """examples/mtls in pods: the workload of examples/inject calls another one under STRICT, and strangers are refused."""
    example = os.path.join(ROOT, "examples/mtls")
    for name in ("web", "pay"):
        namespaces.run(os.path.join(example, "issue"), name, f"spiffe://cluster.local/ns/shop/sa/{name}", cwd=folder)
        cluster.secrets[f"{name}-identity"] = read(os.path.join(folder, name))
    pay = deployment("v1").replace("web", "pay").replace("namespace: default", "namespace: shop")
    pay = cluster.pod("pay", inject(pay, "--certificates-secret", "pay-identity"))
    host = "pay.shop.svc.cluster.local"
    rules = {name: text for name, text in read(example).items() if name in ("destination-rule.yaml", "strict.yaml")}
    check(len(rules) == 2, f"the example has {rules.keys()}")
    cluster.config_maps["outrigger-mesh"] = rules | {"registry.yaml": f"""
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{ name: pay, namespace: shop }}
spec:
  hosts: [{host}]
  addresses: [{VIP}]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{ number: 80, name: http, protocol: HTTP, targetPort: 8080 }}]
  endpoints: [{{ address: {pay.address} }}]
"""}
    pay.start()
    with open(os.path.join(ROOT, "examples/inject/deployment.yaml"), encoding="utf-8") as file:
        [workload, _] = inject(file.read(), "--certificates-secret", "web-identity")["items"]
    web = cluster.pod("web", workload).start()
    # The kubelet has no certificate, and its probes pass.
    for pod in (pay, web):
        wait_for(f"{pod.name} to be ready", pod.is_ready)
    answer = run(web, "wget", "-q", "-O", "-", "--header", f"Host: {host}", f"http://{VIP}/cgi-bin/who", container="web")
    check(answer.startswith("v1 "), f"web got {answer}")
    _, _, metrics = ask(f"{pay.address}:15090", "/stats/prometheus")
    [counted] = [line for line in metrics.splitlines() if line.startswith("istio_requests_total")]
    for label in ('connection_security_policy="mutual_tls"', 'source_principal="spiffe://cluster.local/ns/shop/sa/web"'):
        check(label in counted, f"no {label} in {counted}")
    check(refuses(pay), "plain text is taken under STRICT")


def refuses(pod):
    """Whether a stranger's connection ends without an answer."""
    try:
        ask(f"{pod.address}:8080")
    except urllib.error.HTTPError:
        return False
    except OSError:
        return True
    return False


def read(folder, names="*.*"):
    """The texts of the files of a folder."""
    texts = {}
    for path in glob.glob(os.path.join(folder, names)):
        with open(path, encoding="utf-8") as file:
            texts[os.path.basename(path)] = file.read()
    return texts
