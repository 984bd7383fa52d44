
// ---------------------------------------------------------------- the live page
// In the same module as the explorer, so that the page opens from disk: browsers refuse imported
// modules there. The models run in worker.js.

const FACTS = JSON.parse(document.getElementById("facts").textContent);
const SIDES = ["teacher", "student"];
const $ = (id) => document.getElementById(id);
const percent = (p) => `${(100 * p).toFixed(1)} %`;
const ready = {}, gates = {}, loaded = {};
for (const who of SIDES) {
  ready[who] = new Promise((resolve, reject) => { gates[who] = { resolve, reject }; });
  ready[who].catch(() => {}); // shown on the page; callers of the promise still get it
}

let worker = null, calls = 0, latest = 0, live = "";
const waiting = new Map();

function ask(message) {
  if (!worker) return Promise.reject(new Error(live));
  return new Promise((resolve, reject) => {
    waiting.set(++calls, { resolve, reject });
    worker.postMessage({ ...message, id: calls });
  });
}

const named = (who, row) => Object.fromEntries(FACTS.models[who].labels.map((label, i) => [label, row[i]]));
const best = (probabilities) => Object.entries(probabilities).reduce((a, b) => (b[1] > a[1] ? b : a))[0];

function answerOf(who, { probabilities, milliseconds }) {
  const values = named(who, probabilities);
  return { label: best(values), probabilities: values, milliseconds };
}

/** Both models on one text. Relied on from outside. */
async function predict(text) {
  if (!text.trim()) throw new Error("There is no text to classify; type a sentence.");
  await Promise.all(SIDES.map((who) => ready[who]));
  const found = {};
  for (const who of SIDES) found[who] = answerOf(who, await ask({ kind: "run", who, text }));
  return found;
}

window.tinybertLite = {
  ready: Promise.all(SIDES.map((who) => ready[who])).then(() => undefined),
  student: ready.student.then(() => undefined),
  predict,
  inspect: (text, who) => ask({ kind: "run", who, text, inspect: true }),
  encode: (texts) => ask({ kind: "encode", texts }),
};
window.tinybertLite.ready.catch(() => {});
window.tinybertLite.student.catch(() => {});

// -------- what is shown

function card(who, answer, note) {
  const { name, parameters } = FACTS.models[who], box = h("section", { class: "answer", id: `answer-${who}`, "aria-label": `The ${who}'s prediction`, style: `--who: var(--${who})` },
    h("h2", {}, who === "teacher" ? "Teacher" : "Student"), h("p", {}, `${name}, ${(parameters / 1e6).toFixed(1)} million parameters`));
  if (!answer) { box.append(h("p", { class: "said" }, note)); return box; }
  const time = answer.milliseconds === undefined ? "computed beforehand" : `${answer.milliseconds.toFixed(1)} ms in this browser`;
  box.append(h("p", { class: "said" }, `${answer.label}, ${percent(answer.probabilities[answer.label])}`),
    ...Object.entries(answer.probabilities).map(([label, p]) => h("div", { class: "bar" }, h("span", {}, label), h("span", {}, h("span", { style: `width: ${100 * p}%` })), h("span", {}, percent(p)))),
    h("p", {}, time));
  return box;
}

function showAnswers(answers, note = "Still loading …") {
  $("answers").replaceChildren(...SIDES.map((who) => card(who, answers[who], note)));
}

let app = null;
function showAttention(meta, qk) {
  if (app) { app.replace({ meta, qk, maps: new ArrayBuffer(0), query: 0, key: 0 }); return; }
  app = mountPage($("explorer"), { state: FACTS.state, meta, qk, maps: "" });
}

const fromBase64 = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;

function showExample(i) {
  latest += 1;
  const { meta, qk, answers } = FACTS.examples[i];
  $("text").value = meta.text;
  $("message").textContent = live;
  $("status").textContent = "";
  $("dropped").hidden = true;
  showAnswers(Object.fromEntries(SIDES.map((who) => [who, { label: best(answers[who]), probabilities: answers[who] }])));
  showAttention(meta, app ? fromBase64(qk) : qk);
}

/** Linear CKA with the unbiased HSIC, as comparison.linear_cka. */
function cka(student, teacher, l) {
  const gram = ({ data, dims }, layer) => {
    const width = dims[3], at = layer * l * width, g = new Float64Array(l * l);
    for (let i = 0; i < l; i++) for (let j = 0; j < i; j++) {
      g[i * l + j] = g[j * l + i] = product(data.subarray(at + i * width, at + (i + 1) * width), data.subarray(at + j * width, at + (j + 1) * width));
    }
    return g;
  };
  const sums = (g) => range(l).map((i) => sum(Array.from(g.subarray(i * l, (i + 1) * l))));
  const hsic = (a, b) => product(a.g, b.g) + (sum(a.rows) * sum(b.rows)) / ((l - 1) * (l - 2)) - (2 * product(a.rows, b.rows)) / (l - 2);
  const all = (hidden) => range(hidden.dims[1]).map((layer) => { const g = gram(hidden, layer); return { g, rows: sums(g) }; });
  const [s, t] = [all(student), all(teacher)];
  return s.map((a) => t.map((b) => { const own = hsic(a, a) * hsic(b, b); return l < 4 ? null : own > 0 ? hsic(a, b) / Math.sqrt(own) : 0; }));
}

function attentionOf(text, found) {
  const l = found.teacher.ids.length, parts = SIDES.flatMap((who) => [found[who].queries.data, found[who].keys.data]);
  const qk = new Float32Array(parts.reduce((n, part) => n + part.length, 0));
  parts.reduce((at, part) => { qk.set(part, at); return at + part.length; }, 0);
  const side = (who) => {
    const [, layers, heads, , dk] = found[who].queries.dims, { label, probabilities } = answerOf(who, found[who]);
    return { layers, heads, dk, answer: `${label} (${(100 * probabilities[label]).toFixed(0)} %)` };
  };
  const meta = { text, text_pair: null, tokens: found.teacher.tokens, real: l, special: range(l).map((i) => i === 0 || i === l - 1), segment: range(l).map(() => 0),
    cka: cka(found.student.hidden, found.teacher.hidden, l), snapshots: { steps: [], losses: [], maps: false }, notes: cut(found.teacher), teacher: side("teacher"), student: side("student") };
  return { meta, qk: qk.buffer };
}

const cut = ({ whole, ids }) => (whole > ids.length ? [`The text has ${whole} tokens; the first ${ids.length} are shown.`] : []);

async function classify() {
  const text = $("text").value, turn = (latest += 1), found = {};
  $("message").textContent = "";
  $("status").textContent = "";
  $("dropped").hidden = true;
  if (!text.trim()) { $("message").textContent = "There is no text to classify; type a sentence."; return; }
  if (live) { $("message").textContent = live; return; }
  showAnswers({});
  try {
    const answers = {};
    for (const who of ["student", "teacher"]) {
      await ready[who];
      found[who] = await ask({ kind: "run", who, text, inspect: true });
      if (turn !== latest) return;
      answers[who] = answerOf(who, found[who]);
      showAnswers(answers, loaded[who === "student" ? "teacher" : "student"] ? "Running …" : "Still loading …");
    }
    const { meta, qk } = attentionOf(text, found);
    showAttention(meta, qk);
    $("status").textContent = `Teacher: ${answers.teacher.label}. Student: ${answers.student.label}. ${meta.notes.join(" ").replace("are shown", "are read")}`;
  } catch (error) {
    if (turn === latest) $("message").textContent = error.message;
  }
}

/** Leave-one-out: how far the probability of each model's own label moves without a token. */
async function leaveOut() {
  const text = $("text").value;
  if (!text.trim()) { $("message").textContent = "There is no text to classify; type a sentence."; return; }
  await classify();
  const turn = latest;
  $("status").textContent = "Leaving out each token …";
  try {
    const whole = {}, found = {};
    for (const who of ["student", "teacher"]) {
      await ready[who];
      whole[who] = answerOf(who, await ask({ kind: "run", who, text }));
      found[who] = await ask({ kind: "run", who, text, drop: true });
      if (turn !== latest) return;
    }
    const cell = (who, i) => {
      const values = named(who, found[who].without[i]), { label, probabilities } = whole[who], change = 100 * (values[label] - probabilities[label]);
      return `${best(values)} ${percent(values[best(values)])} (${label} ${change < 0 ? "−" : "+"}${Math.abs(change).toFixed(1)})`;
    };
    $("dropped-text").textContent = `Each row leaves out one token. In parentheses: change of the original label's probability, in percentage points.`;
    $("dropped-table").replaceChildren(h("thead", {}, h("tr", {}, ...["Without", "Teacher", "Student"].map((name) => h("th", { scope: "col" }, name)))),
      h("tbody", {}, ...found.teacher.tokens.slice(1, -1).map((token, i) => h("tr", {}, h("th", { scope: "row" }, token), ...SIDES.map((who) => h("td", {}, cell(who, i)))))));
    $("dropped").hidden = false;
    $("status").textContent = "";
  } catch (error) {
    if (turn === latest) $("message").textContent = error.message;
  }
}

// -------- loading

const PARTS = { runtime: "Runtime", student: "Student", teacher: "Teacher" };
function bars() {
  $("loading").replaceChildren(...Object.entries(PARTS).map(([who, name]) =>
    h("label", { id: `loading-${who}` }, h("span", {}, `${name}: loading`), h("progress", { max: 1, value: 0, "aria-label": `Loading the ${name.toLowerCase()}` }))));
}

function received({ data }) {
  const { kind, who } = data, row = who && $(`loading-${who}`);
  if (kind === "progress") row.querySelector("progress").value = data.share;
  else if (kind === "ready") {
    row.remove();
    loaded[who] = true;
    gates[who]?.resolve();
    if (loaded.student && loaded.teacher) $("leave").disabled = false;
  } else if (kind === "failed") fail(who === "runtime" ? SIDES : [who], `The ${PARTS[who].toLowerCase()} cannot be used: ${data.why}. The examples below still work; reload the page, or build the site again.`, row);
  else {
    const call = waiting.get(data.id);
    waiting.delete(data.id);
    if (kind === "done") call.resolve(data.result);
    else call.reject(new Error(data.why));
  }
}

function fail(sides, why, row) {
  row?.remove();
  $("message").textContent = why;
  if (sides.length === SIDES.length) { live = why; $("loading").replaceChildren(); }
  for (const who of sides) gates[who].reject(new Error(why));
}

// A module with one instruction of the SIMD proposal: (i32.const 0) i8x16.splat, drop.
const SIMD = new Uint8Array([0, 97, 115, 109, 1, 0, 0, 0, 1, 4, 1, 96, 0, 0, 3, 2, 1, 0, 10, 9, 1, 7, 0, 65, 0, 253, 15, 26, 11]);

function start() {
  if (location.protocol === "file:") return fail(SIDES, "This page was opened from disk, where browsers do not let it load the models: you can explore the examples, but not your own sentence. Serve the folder instead: python -m http.server --directory FOLDER");
  if (typeof WebAssembly !== "object" || !WebAssembly.validate(SIMD)) return fail(SIDES, "This browser has no WebAssembly SIMD, which the models need: you can explore the examples, but not your own sentence. A current Chrome, Edge, Firefox or Safari has it.");
  bars();
  try {
    worker = new Worker("worker.js", { type: "module" });
  } catch (error) {
    return fail(SIDES, `This browser cannot start the models: ${error.message}`);
  }
  worker.onerror = (event) => fail(SIDES, `The models cannot be started: ${event.message || "worker.js is missing or broken"}. The examples below still work.`);
  worker.onmessage = received;
  worker.postMessage({ kind: "load", facts: { models: FACTS.models, max_tokens: FACTS.max_tokens, runtime_bytes: FACTS.runtime_bytes } });
  return undefined;
}

$("examples").replaceChildren(...FACTS.examples.map(({ meta }, i) => h("button", { type: "button", dir: "auto", onclick: () => showExample(i) }, meta.text)));
$("ask").addEventListener("submit", (event) => { event.preventDefault(); classify(); });
$("leave").addEventListener("click", leaveOut);
$("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  classify();
});
$("differ").hidden = !FACTS.disagree.length;
$("differ-table").replaceChildren(h("thead", {}, h("tr", {}, ...["Sentence", "Teacher", "Student"].map((name) => h("th", { scope: "col" }, name)))),
  h("tbody", {}, ...FACTS.disagree.map((row) => h("tr", {}, h("td", {}, h("button", { type: "button", onclick: () => { $("text").value = row.text; classify(); $("text").focus(); } }, row.text)),
    ...SIDES.map((who) => h("td", {}, `${row[who][0]}, ${percent(row[who][1])}`))))));
$("licenses").textContent = FACTS.licenses;
showExample(0);
start();
