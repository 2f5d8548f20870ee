// Verifies bundles with @sigstore/verify. Reads [{bundle, artifact?, trustedRoot, keys}] on standard input and answers
// [null | "why not"]. Run with the folder of node_modules as its argument.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";

const require = createRequire(`${process.argv[2]}/`);
const { bundleFromJSON } = require("@sigstore/bundle");
const { TrustedRoot } = require("@sigstore/protobuf-specs");
const { Verifier, toSignedEntity, toTrustMaterial } = require("@sigstore/verify");
const { createPublicKey } = require("node:crypto");

function verify(job) {
  const keys = (hint) => {
    const key = job.keys[hint];
    if (!key) throw new Error(`no key for hint ${hint}`);
    const publicKey = createPublicKey({ key: Buffer.from(key.spki, "base64"), format: "der", type: "spki" });
    const [start, end] = [new Date(key.start), key.end ? new Date(key.end) : undefined];
    return { publicKey, validFor: (date) => date >= start && (!end || date <= end) };
  };
  const trust = toTrustMaterial(TrustedRoot.fromJSON(job.trustedRoot), keys);
  const artifact = job.artifact === undefined ? undefined : Buffer.from(job.artifact, "base64");
  const policy = job.identity ? { subjectAlternativeName: job.identity, extensions: { issuer: job.issuer } } : undefined;
  new Verifier(trust).verify(toSignedEntity(bundleFromJSON(job.bundle), artifact), policy);
}

const answers = JSON.parse(readFileSync(0, "utf8")).map((job) => {
  try {
    verify(job);
    return null;
  } catch (error) {
    return `${error.code ?? error.name}: ${error.message}`;
  }
});
process.stdout.write(JSON.stringify(answers));
