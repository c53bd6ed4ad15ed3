// Holds an object on stdin against the schema that its project publishes. The argument is the folder of the packages.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { resolve } from "node:path";

const require = createRequire(resolve(process.argv[2], "package.json"));
const packages = {
  "argoproj.io": "@kubernetes-models/argo-cd",
  "source.toolkit.fluxcd.io": "@kubernetes-models/flux-cd",
  "kustomize.toolkit.fluxcd.io": "@kubernetes-models/flux-cd",
};

const object = JSON.parse(readFileSync(0, "utf8"));
const [group, version] = object.apiVersion.split("/");
const known = packages[group];
if (!known) throw new Error(`no schemas of ${group} are at hand`);
const kinds = require(`${known}/${group}/${version}`);
if (!kinds[object.kind]) throw new Error(`${known} has no ${object.apiVersion} ${object.kind}`);
new kinds[object.kind](object).validate();
