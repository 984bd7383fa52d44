// Runs both models beside the page, so that the page never waits for them. Messages in:
// {kind: "load", facts}, then {kind: "run", id, who, text, drop}. Messages out: "progress",
// "ready" and "failed" for each part, and one "done" or "error" for each id.

import { WordPiece } from "./wordpiece.js";

let ort, tokenizer, facts;
const sessions = {};

async function bytes(url, tell, size) {
  const response = await fetch(url);
  if (!response.ok) throw new Error(`${url} is missing (HTTP ${response.status})`);
  const reader = response.body.getReader(), parts = [];
  let loaded = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    parts.push(value);
    loaded += value.length;
    tell(loaded / size);
  }
  return new Blob(parts);
}

async function checked(model, tell) {
  const content = await (await bytes(model.file, tell, model.bytes)).arrayBuffer();
  if (content.byteLength !== model.bytes) throw new Error(`${model.file} is broken: it has ${content.byteLength} bytes instead of ${model.bytes}`);
  if (globalThis.crypto?.subtle) {
    const digest = [...new Uint8Array(await crypto.subtle.digest("SHA-256", content))].map((b) => b.toString(16).padStart(2, "0")).join("");
    if (digest !== model.sha256) throw new Error(`${model.file} is broken: its content is not what the site was built with`);
  }
  return unpacked(new Blob([content]));
}

/** What a compressed file holds. */
async function unpacked(blob) {
  return new Uint8Array(await new Response(blob.stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

async function load() {
  const tell = (who) => (share) => postMessage({ kind: "progress", who, share: Math.min(1, share) });
  try {
    tokenizer = new WordPiece(JSON.parse(await (await bytes("models/tokenizer.json", () => {}, 1)).text()));
    ort = await import("./vendor/ort.wasm.min.mjs");
    const binary = await unpacked(await bytes("vendor/ort-wasm-simd-threaded.wasm.gz.bin", tell("runtime"), facts.runtime_bytes));
    Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: binary, wasmPaths: new URL("vendor/", self.location.href).href });
    postMessage({ kind: "ready", who: "runtime" });
  } catch (error) {
    postMessage({ kind: "failed", who: "runtime", why: error.message });
    return;
  }
  for (const who of ["student", "teacher"]) {
    try {
      const content = await checked(facts.models[who], tell(who));
      sessions[who] = await ort.InferenceSession.create(content, { executionProviders: ["wasm"], logSeverityLevel: 3 });
      // The first runs are slower, and what the visitor reads is the time of a usual one.
      for (let i = 0; i < 3; i += 1) await sessions[who].run({ input_ids: tensor([Array(16).fill(tokenizer.cls)]) }, ["logits"]);
      postMessage({ kind: "ready", who });
    } catch (error) {
      postMessage({ kind: "failed", who, why: error.message ?? String(error) });
    }
  }
}

function tensor(rows) {
  const flat = BigInt64Array.from(rows.flat(), BigInt);
  return new ort.Tensor("int64", flat, [rows.length, rows[0].length]);
}

/** Token ids with [CLS] and [SEP], cut as the Python side cuts them. */
function encode(text) {
  const ids = tokenizer.encode(text), whole = ids.length, most = facts.max_tokens;
  const kept = whole > most ? [...ids.slice(0, most - 1), ids[whole - 1]] : ids;
  return { ids: kept, whole, tokens: kept.map((id) => tokenizer.tokens[id]) };
}

function softmax(row) {
  const top = Math.max(...row), e = Array.from(row, (x) => Math.exp(x - top)), all = e.reduce((a, b) => a + b, 0);
  return e.map((x) => x / all);
}

const rowsOf = ({ data, dims }) => Array.from({ length: dims[0] }, (_, i) => Array.from(data.slice(i * dims[1], (i + 1) * dims[1])));

async function run({ who, text, drop, inspect }) {
  const session = sessions[who], encoded = encode(text);
  if (drop) { // each token left out in turn; [CLS] and [SEP] stay
    const rows = encoded.ids.slice(1, -1).map((_, i) => encoded.ids.toSpliced(i + 1, 1));
    const found = [];
    for (let i = 0; i < rows.length; i += 8) {
      const { logits } = await session.run({ input_ids: tensor(rows.slice(i, i + 8)) }, ["logits"]);
      found.push(...rowsOf(logits).map(softmax));
    }
    return { ...encoded, without: found };
  }
  const input_ids = tensor([encoded.ids]), all = inspect && await session.run({ input_ids });
  const began = performance.now(), { logits: { data } } = await session.run({ input_ids }, ["logits"]);
  const milliseconds = performance.now() - began, logits = Array.from(data);
  const result = { ...encoded, logits, probabilities: softmax(logits), milliseconds };
  if (inspect) for (const name of ["queries", "keys", "hidden"]) result[name] = { data: all[name].data, dims: all[name].dims };
  return result;
}

let queue = Promise.resolve(); // a session runs one text at a time
onmessage = ({ data }) => {
  if (data.kind === "load") { facts = data.facts; load(); return; }
  if (data.kind === "encode") { postMessage({ kind: "done", id: data.id, result: data.texts.map(encode) }); return; }
  queue = queue.then(async () => {
    try { postMessage({ kind: "done", id: data.id, result: await run(data) }); }
    catch (error) { postMessage({ kind: "error", id: data.id, why: error.message ?? String(error) }); }
  });
};
