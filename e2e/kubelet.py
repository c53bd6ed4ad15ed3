"""A small stand-in for the kubelet: runs the pod of a manifest with podman, in a network namespace of its own.

It honours what a sidecar depends on: init containers in order, native sidecars (`restartPolicy: Always`) with their
startup probes, postStart and preStop hooks, probes over the pod's address, the end of a Job, and termination in
Kubernetes' order. Images are local ones; nothing is pulled.
"""

import json
import os
import shlex
import subprocess
import tempfile
import threading
import time
import urllib.request

from processes import Failed, wait_for

# Past which a container is killed (Kubernetes' default grace period is 30 s).
GRACE = 30


def podman(*args, check=True, timeout=60):
    done = subprocess.run(["podman", *args], capture_output=True, text=True, timeout=timeout)
    if check and done.returncode != 0:
        raise Failed(f"podman {shlex.join(args)}: {done.stderr.strip()}")
    return done


class Container:
    """One container of a pod."""

    def __init__(self, pod, spec):
        self.pod, self.spec = pod, spec
        self.name = spec["name"]
        self.id = f"{pod.name}-{self.name}"

    def start(self):
        podman("run", "--detach", "--name", self.id, *self._flags(), self.pod.image(self.spec["image"]), *self._args())

    def _flags(self):
        spec, pod = self.spec, self.pod
        context = {**pod.spec.get("securityContext", {}), **spec.get("securityContext", {})}
        flags = [f"--network=ns:{pod.network}", "--log-driver=k8s-file", f"--hostname={pod.name}"]
        user, group = context.get("runAsUser"), context.get("runAsGroup")
        if user is not None:
            flags.append(f"--user={user}" if group is None else f"--user={user}:{group}")
        if context.get("runAsNonRoot") and user == 0:
            raise Failed(f"{self.id}: runAsNonRoot, but runAsUser is 0")
        capabilities = context.get("capabilities", {})
        flags += [f"--cap-drop={name}" for name in capabilities.get("drop", [])]
        flags += [f"--cap-add={name}" for name in capabilities.get("add", [])]
        if context.get("readOnlyRootFilesystem"):
            flags += ["--read-only", "--read-only-tmpfs=false"]
        if context.get("allowPrivilegeEscalation") is False:
            flags.append("--security-opt=no-new-privileges")
        if "command" in spec:
            flags.append(f"--entrypoint={json.dumps(spec['command'])}")
        for variable in spec.get("env", []):
            flags.append(f"--env={variable['name']}={pod.value(variable, spec)}")
        for mount in spec.get("volumeMounts", []):
            folder = pod.volumes[mount["name"]]
            mode = "ro" if mount.get("readOnly") else "rw"
            flags.append(f"--volume={folder}:{mount['mountPath']}:{mode}")
        return flags

    def _args(self):
        return [self.pod.expanded(arg, self.spec) for arg in self.spec.get("args", [])]

    def state(self):
        return json.loads(podman("inspect", self.id).stdout)[0]["State"]

    def exit_code(self):
        """`None` while it runs."""
        state = self.state()
        return None if state["Running"] else state["ExitCode"]

    def logs(self):
        done = podman("logs", self.id, check=False)
        return done.stdout + done.stderr

    def wait(self, deadline):
        wait_for(f"the end of {self.id}", lambda: self.exit_code() is not None, deadline)
        return self.exit_code()

    def probe(self, probe):
        """One try of a probe: true if it succeeds."""
        if "exec" in probe:
            return podman("exec", self.id, *probe["exec"]["command"], check=False).returncode == 0
        action = probe["httpGet"]
        address = action.get("host") or self.pod.address
        request = urllib.request.Request(f"http://{address}:{action['port']}{action.get('path', '/')}")
        for header in action.get("httpHeaders", []):
            request.add_header(header["name"], header["value"])
        try:
            with urllib.request.urlopen(request, timeout=probe.get("timeoutSeconds", 1)) as answer:
                return 200 <= answer.status < 400
        except OSError:
            return False

    def is_ready(self):
        return "readinessProbe" not in self.spec or self.probe(self.spec["readinessProbe"])

    def is_started(self):
        return "startupProbe" not in self.spec or self.probe(self.spec["startupProbe"])

    def before_stop(self):
        """The preStop hook; it runs when the pod begins to end, a sidecar's too."""
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if hook and self.exit_code() is None:
            self.probe(hook)

    def stop(self, deadline):
        """SIGTERM, and SIGKILL at the deadline, which is a failure here."""
        if self.exit_code() is None:
            podman("kill", "--signal=TERM", self.id, check=False)
        try:
            return self.wait(max(deadline - time.monotonic(), 1))
        except Failed:
            podman("kill", "--signal=KILL", self.id, check=False)
            raise


class Pod:
    """A pod of these images. Used as a context it ends without grace."""

    def __init__(self, name, manifest, network, address, images, config_maps, secrets):
        self.name, self.network, self.address, self.images = name, network, address, images
        template = manifest.get("spec", {}).get("template", manifest)
        if manifest["kind"] == "CronJob":
            template = manifest["spec"]["jobTemplate"]["spec"]["template"]
        self.meta, self.spec = template.get("metadata", {}), template["spec"]
        self.namespace = manifest["metadata"].get("namespace", "default")
        self.folder = tempfile.TemporaryDirectory(prefix=f"{name}-")
        self.mounted = {"configMap": ("name", config_maps), "secret": ("secretName", secrets)}
        self.volumes = {}
        self.sidecars, self.containers = [], []

    def start(self):
        """Runs the init containers to their ends, and starts the others."""
        for volume in self.spec.get("volumes", []):
            self.volumes[volume["name"]] = self._volume(volume)
        for spec in self.spec.get("initContainers", []):
            container = Container(self, spec)
            if spec.get("restartPolicy") == "Always":
                self.sidecars.append(container)
                container.start()
                wait_for(f"{container.id} to have started", container.is_started)
            else:
                container.start()
                code = container.wait(GRACE)
                if code != 0:
                    raise Failed(f"{container.id} ended with {code}: {container.logs()}")
        for spec in self.spec["containers"]:
            container = Container(self, spec)
            self.containers.append(container)
            container.start()
            hook = spec.get("lifecycle", {}).get("postStart")
            # The next container waits for it.
            if hook and not container.probe(hook):
                raise Failed(f"{container.id}: postStart failed: {container.logs()}")
        return self

    def container(self, name):
        return next(each for each in self.sidecars + self.containers if each.name == name)

    def is_ready(self):
        return all(container.is_ready() for container in self.sidecars + self.containers)

    def complete(self, deadline=GRACE):
        """A Job's pod: waits for its containers, then ends the sidecars; exit codes by name."""
        for container in self.containers:
            container.wait(deadline)
        self._end_sidecars(time.monotonic() + GRACE)
        return self.exit_codes()

    def terminate(self):
        """As a deleted pod ends: hooks of all, then containers, then sidecars, the last one first. Exit codes by name."""
        deadline = time.monotonic() + self.spec.get("terminationGracePeriodSeconds", GRACE)
        at_once(container.before_stop for container in self.containers + self.sidecars)
        at_once(lambda container=container: container.stop(deadline) for container in self.containers)
        self._end_sidecars(deadline)
        return self.exit_codes()

    def exit_codes(self):
        return {container.name: container.exit_code() for container in self.containers + self.sidecars}

    def _end_sidecars(self, deadline):
        for container in reversed(self.sidecars):
            container.stop(deadline)

    def update_config_map(self, name, files):
        """As the kubelet publishes a changed ConfigMap: a new folder, and one symbolic link swapped."""
        for volume in self.spec.get("volumes", []):
            if volume.get("configMap", {}).get("name") == name:
                publish(self.volumes[volume["name"]], files)

    def image(self, name):
        return self.images[name]

    def value(self, variable, container):
        if "value" in variable:
            return self.expanded(variable["value"], container)
        source = variable.get("valueFrom")
        if source is None:
            return ""
        if "resourceFieldRef" in source:
            return str(self._resource(source["resourceFieldRef"], container))
        return self._field(source["fieldRef"]["fieldPath"])

    def expanded(self, text, container):
        """`$(NAME)` of the container's environment."""
        for variable in container.get("env", []):
            name = f"$({variable['name']})"
            if name in text and f"$({variable['name']})" != variable.get("value"):
                text = text.replace(name, self.value(variable, container))
        return text

    def _resource(self, source, container):
        limits = container.get("resources", {}).get(source["resource"].split(".")[0], {})
        amount = limits.get(source["resource"].split(".")[1])
        if amount is None:
            return os.cpu_count()
        return -(-int(amount[:-1]) // 1000) if amount.endswith("m") else amount

    def _field(self, path):
        known = {
            "metadata.name": self.name,
            "metadata.namespace": self.namespace,
            "status.podIP": self.address,
            "status.hostIP": self.address,
            "spec.serviceAccountName": self.spec.get("serviceAccountName", "default"),
            "spec.nodeName": "node",
            "metadata.uid": f"uid-{self.name}",
        }
        for part in ("labels", "annotations"):
            known[f"metadata.{part}"] = "".join(
                f"{key}={json.dumps(value)}\n" for key, value in self.meta.get(part, {}).items()
            )
            for key, value in self.meta.get(part, {}).items():
                known[f"metadata.{part}['{key}']"] = value
        return known[path]

    def _volume(self, volume):
        folder = os.path.join(self.folder.name, volume["name"])
        os.mkdir(folder)
        os.chmod(folder, 0o777)
        kind = next((kind for kind in self.mounted if kind in volume), None)
        if kind:
            key, known = self.mounted[kind]
            name = volume[kind][key]
            if name in known:
                publish(folder, known[name])
            elif not volume[kind].get("optional"):
                raise Failed(f"{self.name}: there is no {kind} {name}")
        elif "downwardAPI" in volume:
            publish(folder, {item["path"]: self._field(item["fieldRef"]["fieldPath"]) for item in volume["downwardAPI"]["items"]})
        elif "projected" not in volume and "emptyDir" not in volume:
            raise Failed(f"{self.name}: no volume of this kind here: {volume}")
        return folder

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        for container in self.containers + self.sidecars:
            if kind is not None:
                print(f"--- {container.id}\n{container.logs()}", flush=True)
            podman("rm", "--force", "--time=0", container.id, check=False)
        for spec in self.spec.get("initContainers", []):
            podman("rm", "--force", "--time=0", f"{self.name}-{spec['name']}", check=False)
        self.folder.cleanup()


def at_once(calls):
    """Each in a thread; the first failure is passed on."""
    failures = []

    def guarded(call):
        try:
            call()
        except Failed as failure:
            failures.append(failure)

    threads = [threading.Thread(target=guarded, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def publish(folder, files):
    """Files as the kubelet lays them: behind the symbolic link `..data`, which is swapped as a whole."""
    version = tempfile.mkdtemp(prefix="..", dir=folder)
    os.chmod(version, 0o755)
    for name, text in files.items():
        with open(os.path.join(version, name), "w", encoding="utf-8") as out:
            out.write(text)
    link = os.path.join(folder, "..data_tmp")
    os.symlink(os.path.basename(version), link)
    os.rename(link, os.path.join(folder, "..data"))
    for name in files:
        if not os.path.lexists(os.path.join(folder, name)):
            os.symlink(os.path.join("..data", name), os.path.join(folder, name))
