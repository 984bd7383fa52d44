// The explorer's page side: no build step, nothing imported. The same module runs as an anywidget
// (render) and inside the file written by to_html (mountPage). Python sends queries and keys; every
// score, probability, difference, loss and similarity is computed here, so that the mapping can be
// edited where no kernel is. Layers and heads count from 1 in the state, as the paper counts them.

// ---------------------------------------------------------------- colors

// Viridis for maps; blue = teacher, orange = student everywhere, also in the difference map.
const VIRIDIS = ("440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 " +
  "3fbc73 5ec962 84d44b addc30 d8e219 fde725").split(" ");
const THEMES = {
  light: {
    bg: "#ffffff", fg: "#1b2430", muted: "#586273", rule: "#d3d9e0", panel: "#f4f6f8",
    teacher: "#00639c", student: "#b84a00", loss: "#b0126f", quiet: "#aab4bf", mark: "#000000",
    difference: ["003f73", "2f87c0", "a9d0ea", "f5f5f3", "f6c697", "de7b1e", "8f3800"],
  },
  dark: {
    bg: "#111418", fg: "#e8ecf1", muted: "#a3adba", rule: "#39424e", panel: "#1b2027",
    teacher: "#62b8ee", student: "#f5a04a", loss: "#ff6fb5", quiet: "#5d6875", mark: "#ffffff",
    difference: ["a8dcff", "4aa3df", "1f4f75", "1b2027", "7a4413", "e28a33", "ffd7a3"],
  },
};
// Line colors of student layers: Okabe-Ito without its yellow, told apart by dashes too.
const LINES = { light: ["#0072b2", "#d55e00", "#009e73", "#a0529b", "#7a6000", "#3f7f93"],
  dark: ["#56b4e9", "#f08a3c", "#2cc79a", "#dd9bcb", "#d9c24a", "#9fd8e8"] };
const DASHES = [[], [7, 4], [2, 3], [9, 3, 2, 3], [4, 2], [12, 4]];

const channels = (hex) => [0, 2, 4].map((i) => parseInt(hex.slice(i, i + 2), 16));
const mix = (a, b, t) => "#" + channels(a.slice(1)).map((v, i) =>
  Math.round(v + (channels(b.slice(1))[i] - v) * t).toString(16).padStart(2, "0")).join("");

function ramp(stops) {
  const table = new Uint8Array(256 * 3);
  const rgb = stops.map(channels);
  for (let i = 0; i < 256; i++) {
    const at = (i / 255) * (rgb.length - 1), low = Math.min(Math.floor(at), rgb.length - 2);
    for (let c = 0; c < 3; c++) {
      table[3 * i + c] = rgb[low][c] + (rgb[low + 1][c] - rgb[low][c]) * (at - low);
    }
  }
  return table;
}
const RAMPS = { map: ramp(VIRIDIS), light: ramp(THEMES.light.difference),
  dark: ramp(THEMES.dark.difference) };

// ---------------------------------------------------------------- small helpers

const range = (n, from = 0) => Array.from({ length: n }, (_, i) => i + from);
const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
const sum = (values) => values.reduce((a, b) => a + b, 0);
const mean = (values) => sum(values) / values.length;

/** A number at three significant digits, as a person would write it. */
export function show(x) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  const size = Math.abs(x);
  if (size === 0) return "0";
  const text = size >= 1e5 || size < 1e-3 ? x.toExponential(1)
    : size >= 100 ? x.toFixed(0) : size >= 10 ? x.toFixed(1) : size >= 1 ? x.toFixed(2) : x.toFixed(3);
  return text.replace(/-/g, "−");
}

function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

const measurer = document.createElement("canvas").getContext("2d");
function widthOf(text, size, weight = 400) {
  measurer.font = `${weight} ${size}px ${FONT}`;
  return measurer.measureText(text).width;
}
const FONT = 'system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif';
const short = (token, n = 14) => (token.length > n ? token.slice(0, n - 1) + "…" : token);

const HALVES = new Float32Array(65536); // every float16 number, filled at the first snapshot
function fillHalves() {
  for (let b = 0; b < 65536; b++) {
    const e = (b >> 10) & 31, f = b & 1023, sign = b >> 15 ? -1 : 1;
    HALVES[b] = sign * (e === 0 ? f * 2 ** -24 : e === 31 ? (f ? NaN : Infinity)
      : (1 + f / 1024) * 2 ** (e - 15));
  }
}

/** A copy, because a view into a message need not be aligned. */
function bytes(value) {
  if (!value || !value.byteLength) return new ArrayBuffer(0);
  return value.buffer ? value.buffer.slice(value.byteOffset, value.byteOffset + value.byteLength)
    : value.slice(0);
}

// ---------------------------------------------------------------- numbers

function product(a, b) {
  // Four sums that do not wait for each other: similarity of all heads is most of the work here.
  let p = 0, q = 0, r = 0, t = 0, i = 0;
  for (const end = a.length - 3; i < end; i += 4) {
    p += a[i] * b[i];
    q += a[i + 1] * b[i + 1];
    r += a[i + 2] * b[i + 2];
    t += a[i + 3] * b[i + 3];
  }
  for (; i < a.length; i++) p += a[i] * b[i];
  return p + q + r + t;
}

/** Everything that is computed from queries, keys and snapshots; no drawing. */
class Numbers {
  constructor(meta, qk, maps) {
    this.meta = meta;
    this.l = meta.tokens.length;
    this.real = meta.real;
    this.cache = new Map();
    this.cached = 0;
    this.snapshots = meta.snapshots;
    this.words = new Uint16Array(bytes(maps));
    if (this.words.length && !HALVES[0x3c00]) fillHalves();
    const all = new Float32Array(bytes(qk));
    let at = 0;
    for (const who of ["teacher", "student"]) {
      const { layers, heads, dk } = meta[who], size = layers * heads * this.l * dk;
      this[who] = { layers, heads, dk, q: all.subarray(at, at + size),
        k: all.subarray(at + size, at + 2 * size) };
      at += 2 * size;
    }
  }

  /** Computed once; everything is forgotten when about 200 MB are held. */
  remember(key, make) {
    let value = this.cache.get(key);
    if (value === undefined) {
      value = make();
      this.cached += 64 + (value.byteLength ?? 4 * (value.width ?? 0) * (value.height ?? 0));
      if (this.cached > 2e8) {
        this.cache.clear();
        this.cached = 0;
      }
      this.cache.set(key, value);
    }
    return value;
  }

  /** Row `token` of Q or K of one head, (d_k). */
  vector(who, part, layer, head, token) {
    const { heads, dk } = this[who], at = (((layer - 1) * heads + head - 1) * this.l + token) * dk;
    return this[who][part].subarray(at, at + dk);
  }

  /** Where the float16 scores of one head of a snapshot begin. */
  recorded(step, layer, head) {
    const { layers, heads } = this.student;
    return ((step * layers + layer - 1) * heads + head - 1) * this.real * this.real;
  }

  /** QKᵀ/√d_k, (l, l); a snapshot has real tokens only, its padding is NaN. */
  scores(who, layer, head, step) {
    const snapshot = who === "student" && step >= 0;
    return this.remember(`s ${who} ${layer} ${head} ${snapshot ? step : ""}`, () => {
      const { heads, dk, q, k } = this[who], l = this.l, out = new Float32Array(l * l);
      if (snapshot) {
        const n = this.real, from = this.recorded(step, layer, head);
        out.fill(NaN);
        for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) out[i * l + j] = HALVES[this.words[from + i * n + j]];
        return out;
      }
      const from = ((layer - 1) * heads + head - 1) * l * dk, scale = 1 / Math.sqrt(dk);
      for (let i = 0; i < l; i++) {
        for (let j = 0; j < l; j++) {
          let dot = 0;
          for (let d = 0; d < dk; d++) dot += q[from + i * dk + d] * k[from + j * dk + d];
          out[i * l + j] = dot * scale;
        }
      }
      return out;
    });
  }

  /** Softmax over real keys; padding gets 0, as it does in the model. */
  probabilities(who, layer, head, step) {
    return this.remember(`p ${who} ${layer} ${head} ${step}`, () => {
      const scores = this.scores(who, layer, head, step), l = this.l;
      const out = new Float32Array(l * l);
      for (let i = 0; i < l; i++) {
        let top = -Infinity, total = 0;
        for (let j = 0; j < this.real; j++) top = Math.max(top, scores[i * l + j]);
        for (let j = 0; j < this.real; j++) total += out[i * l + j] = Math.exp(scores[i * l + j] - top);
        for (let j = 0; j < this.real; j++) out[i * l + j] /= total;
      }
      return out;
    });
  }

  map(who, layer, head, s) {
    return s.quantity === "scores" ? this.scores(who, layer, head, s.step)
      : this.probabilities(who, layer, head, s.step);
  }

  /** Tokens on the axes, and the tokens a loss is over: never padding. */
  visible(s) {
    return range(this.l).filter((i) => (i < this.real ? s.special || !this.meta.special[i]
      : s.padding));
  }
  counted(s) {
    return this.remember(`counted ${s.special}`, () => {
      const kept = range(this.real).filter((i) => s.special || !this.meta.special[i]);
      return Int32Array.from(kept.length ? kept : range(this.real));
    });
  }

  /** Mean squared difference of scores of one pair of heads: eq. 7 before its mean over heads. */
  loss(sl, sh, tl, th, s) {
    return this.remember(`l ${sl} ${sh} ${tl} ${th} ${s.step} ${s.special}`, () => {
      const b = this.scores("teacher", tl, th, -1), kept = this.counted(s), m = kept.length, { l, real, words } = this;
      // A film has hundreds of snapshot maps: read in place, not unpacked.
      const from = s.step >= 0 ? this.recorded(s.step, sl, sh) : 0, a = s.step >= 0 ? null : this.scores("student", sl, sh, -1);
      let total = 0;
      for (let r = 0; r < m; r++) {
        const i = kept[r];
        for (let c = 0; c < m; c++) {
          const j = kept[c], x = (a ? a[i * l + j] : HALVES[words[from + i * real + j]]) - b[i * l + j];
          total += x * x;
        }
      }
      return total / (m * m);
    });
  }

  /** The loss as a share of the variance of the teacher's scores: 1 is no better than a constant. */
  share(sl, sh, tl, th, s) {
    const variance = this.remember(`v ${tl} ${th} ${s.special}`, () => {
      const scores = this.scores("teacher", tl, th, -1), kept = this.counted(s), all = [];
      for (const i of kept) for (const j of kept) all.push(scores[i * this.l + j]);
      const average = mean(all);
      return mean(all.map((x) => (x - average) ** 2));
    });
    return variance > 0 ? this.loss(sl, sh, tl, th, s) / variance : NaN;
  }

  /** One head's map with each query's mean taken out, at length 1. */
  unit(who, layer, head, s) {
    const step = who === "student" ? s.step : -1;
    return this.remember(`u ${who} ${layer} ${head} ${step} ${s.special} ${s.quantity}`, () => {
      const map = this.map(who, layer, head, { ...s, step }), kept = this.counted(s), m = kept.length, l = this.l;
      const out = new Float64Array(m * m);
      let square = 0;
      for (let r = 0; r < m; r++) {
        let average = 0;
        for (let c = 0; c < m; c++) average += map[kept[r] * l + kept[c]] / m;
        for (let c = 0; c < m; c++) {
          const x = map[kept[r] * l + kept[c]] - average;
          out[r * m + c] = x;
          square += x * x;
        }
      }
      const length = Math.sqrt(square);
      for (let i = 0; i < out.length; i++) out[i] = length > 1e-12 ? out[i] / length : 0;
      return out;
    });
  }

  /** Correlation of two heads' maps after each query's mean is taken out. */
  similarity(sl, sh, tl, th, s) {
    return this.remember(`c ${sl} ${sh} ${tl} ${th} ${s.step} ${s.special} ${s.quantity}`, () => {
      const a = this.unit("student", sl, sh, s), b = this.unit("teacher", tl, th, s);
      return product(a, b);
    });
  }

  /** Similarity of all heads, (student layers × heads, teacher layers × heads). */
  similarities(s) {
    return this.remember(`all ${s.step} ${s.special} ${s.quantity}`, () => {
      const units = (who) => range(this[who].layers, 1).flatMap((layer) => range(this[who].heads, 1).map((head) => this.unit(who, layer, head, s)));
      const [rows, columns] = [units("student"), units("teacher")], out = new Float32Array(rows.length * columns.length);
      rows.forEach((a, r) => columns.forEach((b, c) => { out[r * columns.length + c] = product(a, b); }));
      return out;
    });
  }

  /** The teacher head a student head is held against: same index, or the most similar one. */
  partner(sl, sh, s) {
    const tl = s.mapping[sl];
    if (s.matching === "index") return [tl, sh];
    const all = range(this.teacher.heads, 1).map((th) => this.similarity(sl, sh, tl, th, s));
    return [tl, all.indexOf(Math.max(...all)) + 1];
  }

  /** Losses of all heads of one student layer, each against its partner. */
  losses(sl, s) {
    return range(this.student.heads, 1).map((sh) => this.loss(sl, sh, ...this.partner(sl, sh, s), s));
  }

  /** Snapshots and, last, the student that was passed in (step −1). */
  steps() {
    return [...range(this.snapshots.maps ? this.snapshots.steps.length : 0), -1];
  }
  stepName(step) {
    return step < 0 ? "student as given" : `step ${this.snapshots.steps[step]}`;
  }
}

// ---------------------------------------------------------------- scene

/**
 * A list of shapes that can be painted on a canvas or written as SVG: one drawing, two outputs.
 * `down` moves what is added after it: a heading of several lines pushes the rest of its view.
 */
class Scene {
  constructor(width, theme) {
    Object.assign(this, { width, height: 0, down: 0, theme, items: [], hits: [] });
  }
  rect(x, y, w, height, o) { this.items.push({ kind: "rect", x, y: y + this.down, w, h: height, ...o }); }
  line(points, o) { this.items.push({ kind: "line", points: points.map(([x, y]) => [x, y + this.down]), ...o }); }
  text(x, y, text, o = {}) {
    this.items.push({ kind: "text", x, y: y + this.down, text, size: 12, fill: this.theme.fg, align: "left",
      weight: 400, rotate: 0, ...o });
  }
  image(x, y, w, height, bitmap) { this.items.push({ kind: "image", x, y: y + this.down, w, h: height, bitmap }); }
  hit(x, y, w, height, o) { this.hits.push({ x, y: y + this.down, w, h: height, ...o }); }

  /** Lines of text, broken between words at the picture's width; what follows moves down. */
  paragraph(x, y, text, o = {}, lead = 17) {
    const lines = [""];
    for (const word of text.split(" ")) {
      const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
      if (lines.at(-1) && x + widthOf(longer, o.size ?? 12, o.weight ?? 400) > this.width) lines.push(word);
      else lines[lines.length - 1] = longer;
    }
    lines.forEach((line, i) => {
      if (i) this.down += lead;
      this.text(x, y, line, o);
    });
  }

  paint(context) {
    context.fillStyle = this.theme.bg;
    context.fillRect(0, 0, this.width, this.height);
    context.imageSmoothingEnabled = false;
    for (const item of this.items) {
      context.globalAlpha = item.alpha ?? 1;
      context.setLineDash(item.dash ?? []);
      context.lineWidth = item.thick ?? 1;
      context.strokeStyle = item.stroke ?? "transparent";
      context.fillStyle = item.fill ?? "transparent";
      if (item.kind === "image") context.drawImage(item.bitmap, item.x, item.y, item.w, item.h);
      else if (item.kind === "text") this.paintText(context, item);
      else {
        context.beginPath();
        if (item.kind === "rect") context.roundRect(item.x, item.y, item.w, item.h, item.round ?? 0);
        else item.points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
        if (item.fill) context.fill();
        if (item.stroke) context.stroke();
      }
    }
    context.globalAlpha = 1;
  }

  paintText(context, item) {
    context.save();
    context.translate(item.x, item.y);
    context.rotate((item.rotate * Math.PI) / 180);
    context.font = `${item.weight} ${item.size}px ${FONT}`;
    context.textAlign = item.align;
    context.fillText(item.text, 0, 0);
    context.restore();
  }

  svg(title) {
    const safe = (t) => String(t).replace(/[&<>"]/g, (c) => `&#${c.charCodeAt(0)};`);
    const anchor = { left: "start", center: "middle", right: "end" };
    const one = (i) => {
      const style = `fill="${i.fill ?? "none"}" stroke="${i.stroke ?? "none"}" stroke-width="${i.thick ?? 1}"` +
        `${i.dash?.length ? ` stroke-dasharray="${i.dash}"` : ""}${i.alpha !== undefined ? ` opacity="${i.alpha}"` : ""}`;
      const box = `x="${i.x}" y="${i.y}" width="${i.w}" height="${i.h}"`;
      if (i.kind === "rect") return `<rect ${box} rx="${i.round ?? 0}" ${style}/>`;
      if (i.kind === "line") return `<polyline points="${i.points.map((p) => p.join(",")).join(" ")}" ${style}/>`;
      if (i.kind === "image") {
        return `<image ${box} preserveAspectRatio="none" style="image-rendering:pixelated" href="${i.bitmap.toDataURL()}"/>`;
      }
      const turn = i.rotate ? ` transform="rotate(${i.rotate} ${i.x} ${i.y})"` : "";
      return `<text x="${i.x}" y="${i.y}" font-size="${i.size}" font-weight="${i.weight}" fill="${i.fill}" ` +
        `text-anchor="${anchor[i.align]}"${i.alpha !== undefined ? ` opacity="${i.alpha}"` : ""}${turn}>${safe(i.text)}</text>`;
    };
    return `<svg xmlns="http://www.w3.org/2000/svg" width="${this.width}" height="${this.height}" ` +
      `viewBox="0 0 ${this.width} ${this.height}" font-family='${FONT}' role="img">` +
      `<title>${safe(title)}</title><rect width="100%" height="100%" fill="${this.theme.bg}"/>` +
      this.items.map(one).join("") + "</svg>";
  }
}

/** One map as a bitmap of one pixel per cell. NaN (not recorded) stays transparent. */
function bitmap(values, columns, rows, low, high, table) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, columns);
  canvas.height = Math.max(1, rows);
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  const scale = high > low ? 255 / (high - low) : 0;
  for (let i = 0; i < columns * rows; i++) {
    if (Number.isNaN(values[i])) continue;
    const c = 3 * clamp(Math.round((values[i] - low) * scale), 0, 255), { data } = image;
    data[4 * i] = table[c];
    data[4 * i + 1] = table[c + 1];
    data[4 * i + 2] = table[c + 2];
    data[4 * i + 3] = 255;
  }
  context.putImageData(image, 0, 0);
  return canvas;
}

/** About five round numbers from low to high. */
function nice(low, high) {
  const raw = (high - low) / 5 || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((k) => k * power >= raw) * power;
  return range(Math.floor(high / step) - Math.ceil(low / step) + 1, Math.ceil(low / step)).map((k) => Number((k * step).toPrecision(10)));
}

function extent(list) {
  let low = Infinity, high = -Infinity;
  for (const values of list) for (const v of values) {
    if (v < low) low = v;
    if (v > high) high = v;
  }
  return Number.isFinite(low) ? [low, high] : [0, 1];
}

// ---------------------------------------------------------------- parts that views share

/** The cells of one head's map that are on the axes, row by row. */
function cells(app, who, layer, head, step = app.s.step) {
  const { n, s } = app, seen = app.seen;
  const key = `v ${who} ${layer} ${head} ${who === "student" ? step : ""} ${s.quantity} ${s.special} ${s.padding}`;
  return n.remember(key, () => {
    const map = n.map(who, layer, head, { ...s, step: who === "student" ? step : -1 });
    const out = new Float32Array(seen.length ** 2);
    seen.forEach((i, r) => seen.forEach((j, c) => { out[r * seen.length + c] = map[i * n.l + j]; }));
    return out;
  });
}

/** The color range a teacher head and a student head share: without it shades mean nothing. */
function shared(app, sl, sh, tl, th, step = app.s.step) {
  const { n, s } = app;
  const [low, high] = n.remember(`e ${sl} ${sh} ${tl} ${th} ${step} ${s.quantity} ${s.special} ${s.padding}`, () =>
    extent([cells(app, "teacher", tl, th), cells(app, "student", sl, sh, step)]));
  return s.quantity === "scores" ? [low, high] : [0, high];
}

function thumbnail(app, x, y, size, who, layer, head, low, high, step = app.s.step) {
  const { n, s, seen } = app;
  const key = `b ${who} ${layer} ${head} ${who === "student" ? step : ""} ${s.quantity} ${s.special} ${s.padding} ${low} ${high}`;
  app.scene.image(x, y, size, size, n.remember(key, () =>
    bitmap(cells(app, who, layer, head, step), seen.length, seen.length, low, high, RAMPS.map)));
}

/** What the frame of a head shows: its loss, or the share of the teacher's map it missed. */
const framed = (app, sl, sh) => app.n[app.s.frame](sl, sh, ...app.n.partner(sl, sh, app.s), app.s);
const frameText = (app, value) => (app.s.frame === "share" ? percent(value) : show(value));

/** How loud a loss is drawn: by color and by width, so that it does not hang on color alone. */
function loudness(app, loss, top) {
  // Losses of heads differ by decades: the root keeps the small ones apart.
  const part = clamp(top > 0 ? loss / top : 0, 0, 1), t = app.s.frame === "share" && app.s.view === "heads" ? part : Math.sqrt(part), { quiet, loss: loud } = app.theme;
  return { stroke: mix(quiet, loud, t), thick: 1 + 4 * t };
}

function heading(app, title, detail) {
  app.scene.paragraph(0, 17, title, { size: 15, weight: 650 }, 20);
  app.scene.paragraph(0, 35, detail, { fill: app.theme.muted });
}

function colorBar(app, x, y, width, low, high, table, left, right) {
  const { scene, theme } = app;
  const strip = app.n.remember(`bar ${table === RAMPS.map} ${app.themeName}`, () =>
    bitmap(Float32Array.from(range(256)), 256, 1, 0, 255, table));
  scene.image(x, y, width, 8, strip);
  scene.text(x, y + 20, left ?? show(low), { size: 10.5, fill: theme.muted });
  scene.text(x + width, y + 20, right ?? show(high), { size: 10.5, fill: theme.muted, align: "right" });
}

const quantityName = (s) => (s.quantity === "scores" ? "raw scores, before softmax"
  : "probabilities, after softmax");
const countedName = (s) => (s.special ? "real tokens" : "real tokens without [CLS] and [SEP]");
const percent = (x) => (Number.isNaN(x) ? "–" : `${(100 * x).toFixed(x < 0.0995 ? 1 : 0)} %`);

// ---------------------------------------------------------------- view: all heads

function drawHeads(app) {
  const { n, s, scene, theme } = app, { heads: sHeads } = n.student;
  const step = n.snapshots.maps ? `, ${n.stepName(s.step)}` : "";
  heading(app, `All heads: what each student layer learned from its teacher layer${step}`,
    `Upper map teacher, lower map student (${quantityName(s)}; one color scale per pair). ` +
    `Number and frame: ${s.frame === "loss" ? "attention loss, eq. 7," : "loss ÷ variance of the teacher's scores,"} over ${countedName(s)}.`);
  const gutter = 132, most = Math.max(sHeads, s.unused ? n.teacher.heads : 0);
  const pitch = Math.max(44, Math.min(96, (scene.width - gutter) / most)), size = pitch - 11;
  scene.width = Math.max(scene.width, Math.ceil(gutter + most * pitch)); // many heads: the view scrolls
  const rows = range(n.student.layers, 1).map((sl) => ({ sl, losses: n.losses(sl, s) }));
  const values = rows.map(({ sl, losses }) => losses.map((_, i) => framed(app, sl, i + 1)));
  // Shares have a scale of their own: 100 % is a student that learned nothing but a mean.
  const top = s.frame === "share" ? 1 : Math.max(...values.flat());
  range(sHeads, 1).forEach((head) => scene.text(gutter + (head - 0.5) * pitch - 5, 62, `${head}`,
    { align: "center", fill: theme.muted, size: 11 }));
  scene.text(gutter - 14, 62, "head", { align: "right", fill: theme.muted, size: 11 });
  let y = 70;
  app.overlays = [];
  for (const { sl, losses } of rows) {
    scene.text(0, y + 16, `Student layer ${sl}`, { weight: 650, fill: theme.student });
    scene.text(0, y + 34, "learns from", { fill: theme.muted });
    app.overlays.push({ layer: sl, x: 0, y: y + 41 + scene.down });
    // Under the live selector, so that an exported picture names the layer too.
    scene.text(2, y + 57, `Teacher ${s.mapping[sl]}`, { weight: 650, fill: theme.teacher });
    scene.text(0, y + 86, `loss ${show(mean(losses))}`, { size: 13, weight: 650, fill: theme.loss });
    scene.text(0, y + 101, "mean of its heads", { fill: theme.muted, size: 11 });
    losses.forEach((loss, i) => {
      const x = gutter + i * pitch, [tl, th] = n.partner(sl, i + 1, s);
      const [low, high] = shared(app, sl, i + 1, tl, th);
      const value = values[sl - 1][i], frame = loudness(app, value, top), chosen = sl === s.layer && i + 1 === s.head;
      if (chosen) scene.rect(x - 6, y - 6, pitch - 1, 2 * size + 31, { fill: theme.panel, stroke: theme.fg, round: 5, thick: 1.5 });
      thumbnail(app, x, y, size, "teacher", tl, th, low, high);
      thumbnail(app, x, y + size + 2, size, "student", sl, i + 1, low, high);
      scene.rect(x - frame.thick / 2, y - frame.thick / 2, size + frame.thick, 2 * size + 2 + frame.thick, { ...frame, round: 2 });
      scene.text(x + size / 2, y + 2 * size + 19, frameText(app, value), { align: "center", size: 11.5, weight: chosen ? 700 : 400 });
      if (th !== i + 1) {
        scene.rect(x + 1, y + 1, widthOf(`↤${th}`, 10, 700) + 6, 14, { fill: theme.bg, alpha: 0.85, round: 2 });
        scene.text(x + 4, y + 12, `↤${th}`, { size: 10, weight: 700, fill: theme.teacher });
      }
      scene.hit(x - 5, y - 5, pitch, 2 * size + 26, {
        tip: `Student ${sl}·${i + 1} beside teacher ${tl}·${th}: loss ${show(loss)} (${percent(n.share(sl, i + 1, tl, th, s))} of the teacher's variance), similarity ${show(n.similarity(sl, i + 1, tl, th, s))}`,
        pick: () => ({ layer: sl, head: i + 1, teacher_layer: 0, teacher_head: 0 }), open: { view: "pair" },
      });
    });
    y += Math.max(2 * size + 40, 116);
  }
  if (s.unused) {
    for (const tl of range(n.teacher.layers, 1).filter((k) => !s.mapping.slice(1).includes(k))) {
      scene.text(0, y + 16, `Teacher layer ${tl}`, { weight: 650, fill: theme.teacher });
      scene.text(0, y + 33, "nobody learns from it", { fill: theme.muted, size: 11 });
      range(n.teacher.heads, 1).forEach((th) => {
        const x = gutter + (th - 1) * pitch, [low, high] = extent([cells(app, "teacher", tl, th)]);
        thumbnail(app, x, y, size, "teacher", tl, th, s.quantity === "scores" ? low : 0, high);
        scene.rect(x, y, size, size, { stroke: theme.rule });
      });
      y += size + 22;
    }
  }
  // Legend: the frame, from nothing lost to the worst head on screen.
  y += 4;
  scene.text(gutter, y + 14, "frame:", { fill: theme.muted, size: 11 });
  [0, 0.25, 0.5, 1].forEach((part, i) => {
    const x = gutter + 46 + i * 84;
    scene.rect(x, y + 3, 15, 15, { ...loudness(app, part, 1), round: 2 });
    scene.text(x + 22, y + 15, frameText(app, part * top), { fill: theme.muted, size: 11 });
  });
  scene.paragraph(gutter + 388, y + 14, "map: dark = low, bright = high", { fill: theme.muted, size: 11 });
  scene.height = y + 26;

  const flat = rows.flatMap(({ sl, losses }) => losses.map((loss, i) => ({ sl, sh: i + 1, loss })));
  const best = flat.reduce((a, b) => (b.loss < a.loss ? b : a));
  const worst = flat.reduce((a, b) => (b.loss > a.loss ? b : a));
  return {
    keys: "Arrow keys choose a head, Enter opens the pair.",
    summary: `All heads${step}. ` + rows.map(({ sl, losses }) =>
      `Student layer ${sl} learns from teacher layer ${s.mapping[sl]}: loss ${show(mean(losses))}.`).join(" ") +
      ` Smallest loss: student ${best.sl}·${best.sh} (${show(best.loss)}); largest: ${worst.sl}·${worst.sh} (${show(worst.loss)}). ` +
      `Chosen: student layer ${s.layer} head ${s.head}, loss ${show(rows[s.layer - 1].losses[s.head - 1])}.`,
    table: () => ({
      columns: ["student_layer", "student_head", "teacher_layer", "teacher_head", "loss", "share", "similarity"],
      rows: flat.map(({ sl, sh, loss }) => {
        const [tl, th] = n.partner(sl, sh, s);
        return [sl, sh, tl, th, loss, n.share(sl, sh, tl, th, s), n.similarity(sl, sh, tl, th, s)];
      }),
    }),
  };
}

// ---------------------------------------------------------------- view: one head pair

function drawPair(app) {
  const { n, s, scene, theme, seen, pair } = app, { sl, sh, tl, th } = pair;
  const loss = n.loss(sl, sh, tl, th, s), similarity = n.similarity(sl, sh, tl, th, s);
  heading(app, `One head pair: student ${sl}·${sh} beside teacher ${tl}·${th}`,
    `Attention loss ${show(loss)} over ${countedName(s)}, ${percent(n.share(sl, sh, tl, th, s))} of the variance of the teacher's scores; similarity of the maps ${show(similarity)}; shown: ` +
    `${s.display === "lines" ? "probabilities as lines" : quantityName(s)}${n.snapshots.maps ? `; ${n.stepName(s.step)}` : ""}.`);
  if (s.display === "lines") drawLines(app);
  else drawMaps(app);
  const q = app.at.query, top = (who) => {
    const p = who === "teacher" ? n.probabilities(who, tl, th, -1) : n.probabilities(who, sl, sh, s.step);
    if (q >= n.real && s.step >= 0 && who === "student") return "nothing recorded";
    const best = range(n.real).reduce((a, b) => (p[q * n.l + b] > p[q * n.l + a] ? b : a));
    return `“${n.meta.tokens[best]}” (${percent(p[q * n.l + best])})`;
  };
  return {
    keys: "Up and down choose the query, left and right the key; Enter opens the cell, Esc goes back.",
    summary: `Student layer ${sl} head ${sh} beside teacher layer ${tl} head ${th}: loss ${show(loss)}, similarity ${show(similarity)}. ` +
      `Query “${n.meta.tokens[q]}”: the teacher looks most at ${top("teacher")}, the student at ${top("student")}.`,
    table: () => pairTable(app),
  };
}

function pairTable(app) {
  const { n, s, seen, pair } = app, { sl, sh, tl, th } = pair;
  const a = n.map("student", sl, sh, s), b = n.map("teacher", tl, th, { ...s, step: -1 });
  return {
    columns: ["query", "query_token", "key", "key_token", "teacher", "student", "difference"],
    // The chosen query first: the table on screen is cut, the CSV is not.
    rows: [...seen].sort((i, j) => (j === app.at.query) - (i === app.at.query) || i - j)
      .flatMap((i) => seen.map((j) => [i + 1, n.meta.tokens[i], j + 1, n.meta.tokens[j],
        b[i * n.l + j], a[i * n.l + j], a[i * n.l + j] - b[i * n.l + j]])),
  };
}

function drawMaps(app) {
  const { n, s, scene, theme, seen, pair } = app, { sl, sh, tl, th } = pair, count = seen.length;
  const tokens = seen.map((i) => short(n.meta.tokens[i]));
  const label = Math.min(104, Math.max(...tokens.map((t) => widthOf(t, 11.5)))) + 12;
  // Three maps in a row while tokens stay legible; else two rows, which gives larger cells.
  const wide = (scene.width - label - 130) / 3 / count >= 11;
  const columns = wide ? 3 : 2, gap = wide ? 44 : 30;
  const cell = clamp((scene.width - label - gap * (columns - 1) - 46) / columns / count, 2, 27);
  const size = cell * count, font = clamp(cell * 0.8, 8.5, 12), head = 78 + Math.min(60, label * 0.8);
  const teacher = cells(app, "teacher", tl, th), student = cells(app, "student", sl, sh);
  const [low, high] = shared(app, sl, sh, tl, th);
  const difference = student.map((v, i) => v - teacher[i]);
  const far = Math.max(...extent([difference]).map(Math.abs));
  const place = (i) => [label + (i % columns) * (size + gap), head + Math.floor(i / columns) * (size + head - 16)];
  const panel = (i, title, color, values, lo, hi, table) => {
    const [x, y] = place(i);
    scene.text(x, y - head + 62, title, { weight: 650, fill: color, size: 13 });
    scene.rect(x, y, size, size, { fill: theme.panel });
    scene.image(x, y, size, size, bitmap(values, count, count, lo, hi, table));
    if (s.padding) hatch(app, x, y, size, cell);
    axisTokens(app, x, y, cell, font, tokens, i % columns === 0);
    crosshair(app, x, y, cell, size);
    scene.hit(x, y, size, size, {
      move: (px, py) => ({ query: seen[clamp(Math.floor(py / cell), 0, count - 1)],
        key: seen[clamp(Math.floor(px / cell), 0, count - 1)] }),
      open: { view: "cell" },
    });
    return [x, y + size + 8];
  };
  const [bx, by] = panel(0, `Teacher · layer ${tl} · head ${th}`, theme.teacher, teacher, low, high, RAMPS.map);
  colorBar(app, bx, by, Math.min(size, 180), low, high, RAMPS.map);
  panel(1, `Student · layer ${sl} · head ${sh}`, theme.student, student, low, high, RAMPS.map);
  const [dx, dy] = panel(2, "Student − teacher", theme.fg, difference, -far, far, RAMPS[app.themeName]);
  colorBar(app, dx, dy, Math.min(size, 240), -far, far, RAMPS[app.themeName], `${show(-far)} teacher higher`, `student higher ${show(far)}`);
  scene.height = dy + 30;
  if (wide) drawBars(app, label, dy + 72, scene.width - label - 24, 110);
  else {
    const [x, y] = place(3);
    drawBars(app, x, y, size, Math.max(110, size - 80), cell);
  }
}

/** Which cells are padding, without relying on their color. */
function hatch(app, x, y, size, cell) {
  const from = app.seen.findIndex((i) => i >= app.n.real);
  if (from < 0) return;
  const edge = from * cell;
  for (const [left, top, w, height] of [[edge, 0, size - edge, size], [0, edge, edge, size - edge]]) {
    for (let c = -Math.floor(w / 6) * 6; c < height; c += 6) {
      const start = Math.max(0, -c), end = Math.min(w, height - c);
      app.scene.line([[x + left + start, y + top + start + c], [x + left + end, y + top + end + c]], { stroke: "#ffffff", alpha: 0.5 });
    }
  }
}

function axisTokens(app, x, y, cell, font, tokens, rows) {
  const { scene, theme, seen, at } = app, every = Math.ceil((0.98 * font) / cell);
  tokens.forEach((token, i) => {
    const isQuery = seen[i] === at.query, isKey = seen[i] === at.key;
    // Long inputs show every n-th label, and always the chosen one in a clearing of its own.
    const near = (chosen) => every > 1 && Math.abs(i - seen.indexOf(chosen)) < every;
    if (rows && (isQuery || (i % every === 0 && !near(at.query)))) {
      scene.text(x - 7, y + (i + 0.5) * cell + font * 0.36, token, { align: "right", size: font, weight: isQuery ? 750 : 400, fill: isQuery ? theme.fg : theme.muted });
    }
    if (isKey || (i % every === 0 && !near(at.key))) {
      scene.text(x + (i + 0.5) * cell + font * 0.3, y - 6, token, { rotate: -60, size: font, weight: isKey ? 750 : 400, fill: isKey ? theme.fg : theme.muted });
    }
  });
}

function crosshair(app, x, y, cell, size) {
  const { scene, theme, seen, at } = app, row = seen.indexOf(at.query), column = seen.indexOf(at.key);
  // White over black can be seen on every color of the map.
  for (const [stroke, thick] of [["#000000", 3], ["#ffffff", 1.4]]) {
    if (row >= 0) scene.rect(x, y + row * cell, size, cell, { stroke, thick });
    if (row >= 0 && column >= 0) scene.rect(x + column * cell - 1, y + row * cell - 1, cell + 2, cell + 2, { stroke, thick: thick + 0.4 });
  }
}

/** Where one query looks: teacher and student side by side for every key. */
function drawBars(app, x, y, width, height, cell = null) {
  const { n, s, scene, theme, seen, pair, at } = app, { sl, sh, tl, th } = pair, row = at.query * n.l;
  const b = n.map("teacher", tl, th, { ...s, step: -1 }), a = n.map("student", sl, sh, s);
  const pitch = cell ?? Math.min(46, width / seen.length), every = Math.ceil(10 / pitch);
  const [low, high] = extent([seen.flatMap((j) => [a[row + j], b[row + j], 0])]);
  const scale = height / (high - low || 1), zero = y + high * scale;
  const title = `Where “${short(n.meta.tokens[at.query])}” looks`, full = pitch * seen.length;
  const chosenKey = `“${short(n.meta.tokens[at.key], 10)}”  ${show(b[row + at.key])} → ${show(a[row + at.key])}`;
  // Title, legend and value share a line where there is room for them, and are stacked where not.
  const taken = widthOf(title, 13, 650) + 18, value = widthOf(chosenKey, 11.5) + 152;
  const lines = taken + value <= full ? 0 : value <= full ? 1 : 2;
  scene.text(x, y - 16 - 19 * lines, title, { weight: 650, size: 13 });
  let legend = x + (lines ? 0 : taken);
  const legendY = y - 16 - (lines === 2 ? 19 : 0);
  for (const who of ["teacher", "student"]) {
    scene.rect(legend, legendY - 9, 10, 10, { fill: theme[who], round: 2 });
    scene.text(legend + 15, legendY, who, { fill: theme.muted });
    legend += 74;
  }
  scene.line([[x, zero], [x + pitch * seen.length, zero]], { stroke: theme.rule });
  seen.forEach((j, i) => {
    const left = x + i * pitch, chosen = j === at.key;
    if (chosen) scene.rect(left, y - 2, pitch, height + 4, { fill: theme.panel, stroke: theme.rule });
    [[b, "teacher", 0.1], [a, "student", 0.52]].forEach(([map, who, from]) => {
      const value = map[row + j];
      if (Number.isNaN(value)) return;
      scene.rect(left + from * pitch, Math.min(zero, zero - value * scale), pitch * 0.38, Math.max(0.5, Math.abs(value) * scale), { fill: theme[who] });
    });
    const near = every > 1 && Math.abs(i - seen.indexOf(at.key)) < every;
    if (chosen || (i % every === 0 && !near)) {
      scene.text(left + pitch / 2 + 4, y + height + 13, short(n.meta.tokens[j], 12), { rotate: -60, align: "right", size: clamp(pitch * 0.92, 8.5, 11.5), weight: chosen ? 750 : 400, fill: chosen ? theme.fg : theme.muted });
    }
  });
  scene.text(x + full, y - 16, chosenKey, { align: "right", size: 11.5, fill: theme.fg });
  scene.hit(x, y, pitch * seen.length, height, { move: (px) => ({ query: at.query, key: seen[clamp(Math.floor(px / pitch), 0, seen.length - 1)] }), open: { view: "cell" } });
  scene.height = Math.max(scene.height, y + height + 70);
}

/** Lines from queries to keys, as thick and opaque as the probability. */
function drawLines(app) {
  const { n, s, scene, theme, seen, pair, at } = app, { sl, sh, tl, th } = pair;
  const pitch = clamp(520 / seen.length, 11, 20), half = scene.width / 2, top = 84;
  [["teacher", tl, th, 0], ["student", sl, sh, half]].forEach(([who, layer, head, x]) => {
    const p = n.probabilities(who, layer, head, who === "student" ? s.step : -1);
    const left = x + 104, right = x + half - 112, size = clamp(pitch * 0.85, 9, 12.5);
    scene.text(x + 8, 60, `${who === "teacher" ? "Teacher" : "Student"} · layer ${layer} · head ${head}`, { weight: 650, size: 13, fill: theme[who] });
    scene.text(left - 6, 76, "query", { align: "right", size: 10.5, fill: theme.muted });
    scene.text(right + 6, 76, "key", { size: 10.5, fill: theme.muted });
    const y = (i) => top + (i + 0.5) * pitch;
    for (const strong of [false, true]) {
      seen.forEach((i, r) => seen.forEach((j, c) => {
        const weight = p[i * n.l + j];
        if ((i === at.query) !== strong || !(weight > 0.02)) return;
        scene.line([[left, y(r)], [right, y(c)]], { stroke: strong ? theme[who] : theme.muted, thick: strong ? 1 + 5 * weight : 0.6 + 2 * weight, alpha: strong ? 0.35 + 0.65 * weight : 0.35 * weight + 0.03 });
      }));
    }
    seen.forEach((i, r) => {
      const isQuery = i === at.query, isKey = i === at.key;
      const token = short(n.meta.tokens[i], 13);
      scene.text(left - 6, y(r) + size * 0.35, token, { align: "right", size, weight: isQuery ? 750 : 400, fill: isQuery ? theme[who] : theme.fg });
      const weight = p[at.query * n.l + i];
      scene.text(right + 6, y(r) + size * 0.35, token, { size, weight: weight > 0.1 ? 750 : 400, fill: theme.fg });
      if (weight > 0.02) scene.text(x + half - 4, y(r) + size * 0.35, percent(weight), { align: "right", size: size - 1.5, fill: isKey ? theme.fg : theme.muted });
    });
    scene.hit(x, top, half, pitch * seen.length, {
      move: (px, py) => { const token = seen[clamp(Math.floor(py / pitch), 0, seen.length - 1)]; return px < half / 2 ? { query: token, key: at.key } : { query: at.query, key: token }; },
      open: { view: "cell" },
    });
  });
  scene.height = top + pitch * seen.length + 12;
}

// ---------------------------------------------------------------- view: one query and key

function drawCell(app) {
  const { n, s, scene, theme, pair, at } = app, { sl, sh, tl, th } = pair, cell = at.query * n.l + at.key;
  const [q, k] = [n.meta.tokens[at.query], n.meta.tokens[at.key]];
  const facts = (who, layer, head, step) => {
    const scores = n.scores(who, layer, head, step), p = n.probabilities(who, layer, head, step);
    const row = scores.subarray(at.query * n.l, at.query * n.l + n.real);
    return { who, layer, head, score: scores[cell], p: at.query < n.real || step < 0 ? p[cell] : NaN,
      rank: at.key < n.real ? 1 + row.filter((v) => v > scores[cell]).length : null };
  };
  const t = facts("teacher", tl, th, -1), u = facts("student", sl, sh, s.step);
  const difference = u.score - t.score, counts = n.counted(s);
  const inLoss = counts.includes(at.query) && counts.includes(at.key);
  const part = inLoss ? difference ** 2 / counts.length ** 2 : 0, loss = n.loss(sl, sh, tl, th, s);
  heading(app, `One query and key: how much “${q}” looks at “${k}”`,
    `score = q·k / √d_k: the products of each dimension, added up. Student ${sl}·${sh} beside teacher ${tl}·${th}` +
    `${n.snapshots.maps ? `, ${n.stepName(s.step)}` : ""}.`);
  const third = scene.width / 3, rank = (f) => (f.rank === null ? "padding, masked" : `rank ${f.rank} of ${n.real}`);
  const card = (i, title, fill, number, under, second, underSecond) => {
    const x = i * third, big = third < 250 ? 22 : 28, beside = x + Math.max(0.48 * third, 34 + widthOf(number, big, 700));
    scene.rect(x + 1, 52, third - (i < 2 ? 14 : 2), 92, { fill: theme.panel, round: 6 });
    scene.rect(x + 1, 52, 4, 92, { fill });
    scene.text(x + 18, 74, title, { weight: 650, fill, size: 13 });
    scene.text(x + 18, 112, number, { size: big, weight: 700 });
    scene.text(x + 18, 132, under, { fill: theme.muted });
    scene.text(beside, 112, second, { size: 0.72 * big, weight: 600 });
    scene.text(beside, 132, underSecond, { fill: theme.muted });
  };
  [[t, "Teacher"], [u, "Student"]].forEach(([f, name], i) => card(i, third < 250 ? `${name} ${f.layer}·${f.head}` : `${name} · layer ${f.layer} · head ${f.head}`,
    theme[f.who], show(f.score), "score", Number.isNaN(f.p) ? "–" : percent(f.p), rank(f)));
  card(2, "Student − teacher", theme.loss, show(difference), `squared ${show(difference ** 2)}`,
    loss > 0 ? percent(part / loss) : "–", inLoss ? "of the loss" : "not in the loss");
  let y = 186;
  const products = [["teacher", tl, th, t], ["student", sl, sh, u]].map(([who, layer, head, f]) => {
    const a = n.vector(who, "q", layer, head, at.query), b = n.vector(who, "k", layer, head, at.key);
    return { who, f, a, b, product: a.map((v, d) => (v * b[d]) / Math.sqrt(a.length)) };
  });
  const far = Math.max(...products.map((p) => Math.max(...p.product.map(Math.abs)))) || 1;
  for (const { who, f, a, b, product } of products) {
    const left = 112, pitch = (scene.width - left - 8) / a.length, name = who === "teacher" ? "Teacher" : "Student";
    scene.text(0, y, `${name}: ${a.length} dimensions`, { weight: 650, fill: theme[who], size: 13 });
    if (who === "student" && s.step >= 0) {
      scene.paragraph(left, y + 30, "Snapshots keep scores, not queries and keys; move the slider to the end to see them.", { fill: theme.muted });
      y += 60;
      continue;
    }
    const reach = Math.max(...a.map(Math.abs), ...b.map(Math.abs)) || 1;
    [["query q", a], ["key k", b]].forEach(([label, values], row) => {
      scene.text(left - 10, y + 27 + row * 22, label, { align: "right", fill: theme.muted });
      values.forEach((v, d) => {
        const c = 3 * clamp(Math.round(127.5 + (127.5 * v) / reach), 0, 255), table = RAMPS[app.themeName];
        scene.rect(left + d * pitch, y + 13 + row * 22, pitch - 1, 19, { fill: `rgb(${table[c]},${table[c + 1]},${table[c + 2]})` });
      });
    });
    const zero = y + 100;
    scene.text(left - 10, zero - 4, "q × k / √d_k", { align: "right", fill: theme.muted });
    scene.text(left - 10, zero + 12, `adds to ${show(f.score)}`, { align: "right", weight: 650, size: 11 });
    scene.line([[left, zero], [left + pitch * a.length, zero]], { stroke: theme.rule });
    product.forEach((v, d) => scene.rect(left + d * pitch, Math.min(zero, zero - (v / far) * 38), pitch - 1, Math.max(0.5, (Math.abs(v) / far) * 38), { fill: v < 0 ? theme.quiet : theme[who] }));
    y += 172;
  }
  scene.paragraph(112, y - 14, `q and k: blue below zero, orange above. Bars: colored above zero, gray below; one scale for both models (longest ${show(far)}).`, { fill: theme.muted, size: 11 });
  scene.height = y;
  return {
    keys: "Up and down choose the query, left and right the key; Esc goes back.",
    summary: `Query “${q}”, key “${k}”. Teacher ${tl}·${th}: score ${show(t.score)}, probability ${show(t.p)}. ` +
      `Student ${sl}·${sh}: score ${show(u.score)}, probability ${show(u.p)}. Difference ${show(difference)}, ` +
      `${inLoss ? `${percent(loss > 0 ? part / loss : 0)} of the head's loss ${show(loss)}` : "not in the loss"}.`,
    table: () => ({
      columns: ["quantity", "teacher", "student"],
      rows: [["score", t.score, u.score], ["probability", t.p, u.p], ["rank", t.rank, u.rank],
        ["difference", "", difference], ["squared difference", "", difference ** 2], ["head loss", "", loss],
        ...range(Math.max(products[0].product.length, products[1].product.length)).map((d) =>
          [`dimension ${d + 1}`, products[0].product[d] ?? "", s.step >= 0 ? "" : products[1].product[d] ?? ""])],
    }),
  };
}

// ---------------------------------------------------------------- view: over training

function chart(app, x, y, width, height, title, xs, names, series, cursor, onStep) {
  const { scene, theme } = app, lines = LINES[app.themeName];
  const values = series.flat().filter((v) => Number.isFinite(v) && v > 0);
  const [low, high] = extent([values]), log = high / low > 15;
  const f = log ? Math.log10 : (v) => v, bottom = log ? f(low) : 0, span = f(high) - bottom || 1;
  const px = (v) => x + 44 + ((v - xs[0]) / (xs.at(-1) - xs[0] || 1)) * (width - 150);
  const py = (v) => y + 24 + (1 - (f(log ? Math.max(v, low * 0.9) : v) - bottom) / span) * (height - 54);
  scene.text(x, y + 4, `${title}${log ? " (log)" : ""}`, { weight: 650, size: 13 });
  const decades = log ? range(Math.floor(f(high)) - Math.ceil(bottom) + 1, Math.ceil(bottom)).map((e) => 10 ** e) : [];
  const ticks = decades.length > 1 ? decades : log ? [low, Math.sqrt(low * high), high] : nice(0, high);
  for (const v of ticks) {
    scene.line([[x + 44, py(v)], [px(xs.at(-1)), py(v)]], { stroke: theme.rule });
    scene.text(x + 38, py(v) + 4, show(v), { align: "right", size: 10.5, fill: theme.muted });
  }
  for (const v of nice(xs[0], xs.at(-1))) {
    scene.text(px(v), y + height - 12, `${v}`, { align: "center", size: 10.5, fill: theme.muted });
  }
  scene.text(px((xs[0] + xs.at(-1)) / 2), y + height + 2, "training step", { align: "center", size: 10.5, fill: theme.muted });
  scene.line([[px(cursor), y + 18], [px(cursor), y + height - 28]], { stroke: theme.fg, thick: 1.5, dash: [3, 3] });
  const ends = [];
  series.forEach((line, i) => {
    const points = xs.map((v, k) => [px(v), py(line[k]), line[k]]).filter((p) => Number.isFinite(p[2]));
    if (!points.length) return;
    const stroke = names[i] === "mean" ? theme.fg : lines[i % lines.length], dash = DASHES[i % DASHES.length];
    scene.line(points.map((p) => p.slice(0, 2)), { stroke, thick: names[i] === "mean" ? 2.6 : 2, dash });
    ends.push({ y: points.at(-1)[1], name: names[i], stroke });
    const here = points.find((p) => p[0] === px(cursor));
    if (here) scene.rect(here[0] - 3.5, here[1] - 3.5, 7, 7, { fill: stroke, stroke: theme.bg, round: 4 });
  });
  // Labels at the line ends instead of a legend, pushed apart where lines meet.
  ends.sort((a, b) => a.y - b.y).forEach((end, i) => {
    if (i) end.y = Math.max(end.y, ends[i - 1].y + 13);
    scene.text(px(xs.at(-1)) + 8, end.y + 4, end.name, { size: 11, fill: end.stroke, weight: 650 });
  });
  scene.hit(x + 44, y + 10, width - 150, height - 30, {
    pick: (at) => onStep(xs[0] + (at / (width - 150)) * (xs.at(-1) - xs[0])),
  });
}

function drawTraining(app) {
  const { n, s, scene, theme, pair } = app, { sl, sh, tl, th } = pair, { steps, losses: recorded, maps } = n.snapshots;
  const layers = range(n.student.layers, 1);
  const curves = maps ? layers.map((layer) => steps.map((_, i) => mean(n.losses(layer, { ...s, step: i })))) : [];
  const all = maps ? steps.map((_, i) => mean(curves.map((line) => line[i]))) : [];
  const now = s.step < 0 ? steps.length - 1 : s.step, cursor = steps[now];
  const nearest = (v) => ({ step: steps.reduce((best, x, i) => (Math.abs(x - v) < Math.abs(steps[best] - v) ? i : best), 0) });
  heading(app, `Over training: ${n.stepName(s.step)}`,
    `Attention loss of each student layer against the layer it learns from, for this text, over ${countedName(s)}.`);
  const names = [...new Set(recorded.flatMap((r) => Object.keys(r)))], both = names.length && maps;
  const width = both ? scene.width / 2 : scene.width;
  if (maps) chart(app, 0, 58, width - 8, 240, "Attention loss on this text", steps, [...layers.map((m) => `layer ${m}`), "mean"], [...curves, all], cursor, nearest);
  if (names.length) chart(app, both ? width + 8 : 0, 58, width - 8, 240, "Losses recorded in training", steps, names, names.map((name) => recorded.map((r) => r[name] ?? NaN)), cursor, nearest);
  let y = 334;
  if (maps) {
    const frames = Math.min(8, steps.length), chosen = range(frames).map((i) => Math.round((i * (steps.length - 1)) / Math.max(1, frames - 1)));
    const pitch = scene.width / (frames + 1), size = Math.min(pitch - 12, 118);
    scene.text(0, y, `Student ${sl}·${sh} turning into teacher ${tl}·${th}`, { weight: 650, size: 13 });
    y += 12;
    chosen.forEach((step, i) => {
      const [low, high] = shared(app, sl, sh, tl, th, step);
      thumbnail(app, i * pitch + 3, y, size, "student", sl, sh, low, high, step);
      const here = step === s.step;
      scene.rect(i * pitch + 3, y, size, size, { stroke: here ? theme.fg : theme.rule, thick: here ? 3 : 1 });
      scene.text(i * pitch + 3, y + size + 15, `${steps[step]}`, { size: 11, weight: here ? 700 : 400, fill: here ? theme.fg : theme.muted });
      scene.text(i * pitch + 3 + size, y + size + 15, show(n.loss(sl, sh, tl, th, { ...s, step })), { size: 11, align: "right", fill: theme.loss });
      scene.hit(i * pitch, y, size + 6, size + 18, { pick: () => ({ step }), tip: `Step ${steps[step]}` });
    });
    const [low, high] = shared(app, sl, sh, tl, th), x = frames * pitch + 3;
    thumbnail(app, x, y, size, "teacher", tl, th, low, high);
    scene.rect(x, y, size, size, { stroke: theme.teacher, thick: 2.5 });
    scene.text(x, y + size + 15, "teacher", { size: 11, weight: 700, fill: theme.teacher });
    y += size + 44;
    const gutter = 70, step = Math.max(30, Math.min(80, (scene.width - gutter) / n.student.heads)), small = step - 10;
    // One frame scale for the whole film: heads are seen growing quiet.
    const top = n.remember(`top ${s.special} ${s.matching} ${s.quantity} ${s.mapping}`, () => Math.max(...steps.flatMap((_, i) => layers.flatMap((m) => n.losses(m, { ...s, step: i })))));
    scene.paragraph(0, y, `All student heads, ${n.stepName(s.step)}: frame = loss, on one scale for all steps (thickest ${show(top)})`, { weight: 650, size: 13 });
    y += 14;
    for (const m of layers) {
      scene.text(0, y + small / 2 + 4, `layer ${m}`, { fill: theme.student, weight: 650 });
      n.losses(m, s).forEach((loss, i) => {
        const px = gutter + i * step, [tLayer, tHead] = n.partner(m, i + 1, s), [lo, hi] = shared(app, m, i + 1, tLayer, tHead);
        const frame = loudness(app, loss, top);
        thumbnail(app, px, y, small, "student", m, i + 1, lo, hi);
        scene.rect(px - frame.thick / 2, y - frame.thick / 2, small + frame.thick, small + frame.thick, { ...frame, round: 2 });
        if (m === s.layer && i + 1 === s.head) scene.rect(px - 5, y - 5, small + 10, small + 10, { stroke: theme.fg, thick: 1.5, round: 4 });
        scene.hit(px, y, small, small, { pick: () => ({ layer: m, head: i + 1, teacher_layer: 0, teacher_head: 0 }), tip: `Student ${m}·${i + 1}: loss ${show(loss)}`, open: { view: "pair" } });
      });
      y += step + 2;
    }
  }
  scene.height = y + 10;
  const at = { ...s, step: s.step };
  return {
    keys: "Left and right move through the steps, up and down through student layers, Space plays and pauses.",
    summary: `${steps.length} snapshots from step ${steps[0]} to ${steps.at(-1)}; shown: ${n.stepName(s.step)}. ` +
      (maps ? layers.map((m, i) => `Layer ${m}: ${show(curves[i][0])} at the start, ${show(mean(n.losses(m, at)))} here.`).join(" ") : ""),
    table: () => ({
      columns: ["step", ...(maps ? [...layers.map((m) => `attention_loss_layer_${m}`), "attention_loss_mean"] : []), ...names],
      rows: steps.map((step, i) => [step, ...(maps ? [...curves.map((line) => line[i]), all[i]] : []), ...names.map((name) => recorded[i][name] ?? "")]),
    }),
  };
}

// ---------------------------------------------------------------- view: similarity

function drawSimilarity(app) {
  const { n, s, scene, theme, pair } = app, { student, teacher, meta } = n;
  const rows = student.layers * student.heads, columns = teacher.layers * teacher.heads;
  heading(app, `Similarity: which student head resembles which teacher head${n.snapshots.maps ? `, ${n.stepName(s.step)}` : ""}`,
    `Correlation of ${quantityName(s)}, each query's mean taken out, over ${countedName(s)}. Ring: the most similar teacher head of each row.`);
  const values = n.similarities(s);
  const left = 96, top = 88, cell = clamp((scene.width - left - 4) / columns, 4, 20);
  const width = cell * columns, height = cell * rows;
  scene.image(left, top, width, height, bitmap(values, columns, rows, -1, 1, RAMPS[app.themeName]));
  range(teacher.layers).forEach((k) => {
    const x = left + k * teacher.heads * cell;
    if (k) scene.line([[x, top - 6], [x, top + height]], { stroke: theme.fg, alpha: 0.6 });
    scene.text(x + (teacher.heads * cell) / 2, top - 10, `teacher ${k + 1}`, { align: "center", fill: theme.teacher, weight: 650, size: 11.5 });
  });
  range(student.layers).forEach((k) => {
    const y = top + k * student.heads * cell;
    if (k) scene.line([[left - 6, y], [left + width, y]], { stroke: theme.fg, alpha: 0.6 });
    scene.text(left - 12, y + (student.heads * cell) / 2 + 4, `student ${k + 1}`, { align: "right", fill: theme.student, weight: 650, size: 11.5 });
    // The block that the mapping pairs up.
    scene.rect(left + (s.mapping[k + 1] - 1) * teacher.heads * cell, y, teacher.heads * cell, student.heads * cell, { stroke: theme.fg, thick: 2.2 });
  });
  const best = range(rows).map((r) => {
    const row = values.subarray(r * columns, (r + 1) * columns);
    return row.indexOf(Math.max(...row));
  });
  best.forEach((c, r) => {
    for (const [stroke, thick] of [["#000000", 2.6], ["#ffffff", 1.3]]) scene.rect(left + (c + 0.5) * cell - cell * 0.36, top + (r + 0.5) * cell - cell * 0.36, cell * 0.72, cell * 0.72, { stroke, thick, round: cell / 2 });
  });
  const row = (pair.sl - 1) * student.heads + pair.sh - 1, column = (pair.tl - 1) * teacher.heads + pair.th - 1;
  for (const [stroke, thick] of [[theme.bg, 5], [theme.loss, 2.5]]) scene.rect(left + column * cell - 2, top + row * cell - 2, cell + 4, cell + 4, { stroke, thick });
  const name = (r, c) => [Math.floor(r / student.heads) + 1, (r % student.heads) + 1, Math.floor(c / teacher.heads) + 1, (c % teacher.heads) + 1];
  const cut = (px, py) => [clamp(Math.floor(py / cell), 0, rows - 1), clamp(Math.floor(px / cell), 0, columns - 1)];
  scene.hit(left, top, width, height, {
    tipAt: (px, py) => { const [r, c] = cut(px, py), [sl, sh, tl, th] = name(r, c); return `Student ${sl}·${sh} and teacher ${tl}·${th}: similarity ${show(values[r * columns + c])}, loss ${show(n.loss(sl, sh, tl, th, s))}`; },
    pick: (px, py) => { const [sl, sh, tl, th] = name(...cut(px, py)); return { layer: sl, head: sh, teacher_layer: tl, teacher_head: th }; },
    open: { view: "pair" },
  });
  let y = top + height + 16;
  colorBar(app, left, y, 180, -1, 1, RAMPS[app.themeName], "−1 opposite", "");
  scene.text(left + 180, y + 20, "1 same", { size: 10.5, fill: theme.muted, align: "right" });
  scene.text(left + 204, y + 9, "thick box: layers the mapping pairs", { size: 11, fill: theme.muted });
  scene.paragraph(left + 204, y + 26, `chosen: student ${pair.sl}·${pair.sh}, teacher ${pair.tl}·${pair.th}, similarity ${show(values[row * columns + column])}`, { size: 11.5, weight: 650 });
  y += 64;
  scene.paragraph(0, y, "Hidden states: linear CKA of every student output with every teacher output", { weight: 650, size: 13 });
  scene.paragraph(0, y + 17, "Unbiased estimator, over the real tokens of this text, for the student as given. 0 is the embedding output; boxes: what the mapping pairs.", { fill: theme.muted });
  y += 46;
  const side = Math.min(64, (scene.width - left) / meta.cka[0].length);
  meta.cka[0].forEach((_, c) => scene.text(left + (c + 0.5) * side, y - 5, c ? `teacher ${c}` : "teacher 0", { align: "center", size: 11, fill: theme.teacher }));
  meta.cka.forEach((line, r) => {
    scene.text(left - 12, y + r * 34 + 21, `student ${r}`, { align: "right", size: 11, fill: theme.student });
    line.forEach((v, c) => {
      const t = clamp(v ?? 0, 0, 1), at = 3 * Math.round(255 * t), paint = RAMPS.map;
      scene.rect(left + c * side, y + r * 34, side - 2, 32, { fill: `rgb(${paint[at]},${paint[at + 1]},${paint[at + 2]})` });
      scene.text(left + (c + 0.5) * side - 1, y + r * 34 + 21, v === null ? "–" : show(v), { align: "center", fill: t > 0.55 ? "#000000" : "#ffffff", weight: 600 });
      if (s.mapping[r] === c) scene.rect(left + c * side, y + r * 34, side - 2, 32, { stroke: theme.loss, thick: 3 });
    });
  });
  scene.height = y + meta.cka.length * 34 + 8;
  const inside = best.filter((c, r) => Math.floor(c / teacher.heads) + 1 === s.mapping[Math.floor(r / student.heads) + 1]).length;
  const home = best.filter((c, r) => name(r, c)[2] === s.mapping[name(r, c)[0]] && name(r, c)[1] === name(r, c)[3]).length;
  return {
    keys: "Arrow keys move through student and teacher heads, Enter opens the pair.",
    summary: `Of ${rows} student heads, ${inside} resemble a head of the layer they learn from most` +
      `${student.heads === teacher.heads ? `, ${home} the head of their own number` : ""}. Chosen: student ${pair.sl}·${pair.sh} and teacher ${pair.tl}·${pair.th}, ` +
      `similarity ${show(values[row * columns + column])}. Most similar to it: teacher ${name(row, best[row])[2]}·${name(row, best[row])[3]} (${show(values[row * columns + best[row]])}).`,
    table: () => ({
      columns: ["what", "student_layer", "student_head", "teacher_layer", "teacher_head", "value"],
      rows: [...meta.cka.flatMap((line, r) => line.map((v, c) => ["cka", r, "", c, "", v])),
        ...[...values].map((v, i) => ["similarity", ...name(Math.floor(i / columns), i % columns), v])],
    }),
  };
}

// ---------------------------------------------------------------- the app

const VIEWS = {
  heads: { name: "All heads", draw: drawHeads },
  pair: { name: "One head pair", draw: drawPair },
  cell: { name: "One query and key", draw: drawCell },
  training: { name: "Over training", draw: drawTraining },
  similarity: { name: "Similarity", draw: drawSimilarity },
};
const STATE = ["view", "quantity", "special", "padding", "unused", "frame", "display", "matching", "mapping", "layer", "head", "teacher_layer", "teacher_head", "query", "key", "step"];
const TABLE_ROWS = 240;

class Explorer {
  constructor(el, store) {
    this.store = store;
    this.hover = null;
    this.overlays = [];
    this.build(el);
    this.load();
    this.watch();
  }

  load() {
    this.n = new Numbers(this.store.get("meta"), this.store.get("qk"), this.store.get("maps"));
    this.setup();
    this.draw();
    this.prepare(this.n, this.s);
  }

  /** Losses of every snapshot and similarity of all heads, while nobody waits for them. */
  prepare(n, s) {
    const units = (who) => range(n[who].layers, 1).flatMap((layer) => range(n[who].heads, 1).map((head) => () => n.unit(who, layer, head, s)));
    const work = [...n.steps().flatMap((step) => range(n.student.layers, 1).map((layer) => () => n.losses(layer, { ...s, step }))),
      ...units("teacher"), ...units("student"), () => n.similarities(s)];
    const idle = window.requestIdleCallback ?? ((go) => setTimeout(() => go({ timeRemaining: () => 10 }), 30));
    const go = (time) => {
      do work.shift()?.(); while (work.length && time.timeRemaining() > 4);
      if (work.length && n === this.n) idle(go); // another text ends it, and so does remove()
    };
    idle(go);
  }

  set(patch) { this.store.set(patch); }

  // -------- page

  build(el) {
    const stop = (event) => event.stopPropagation();
    this.canvas = h("canvas", { tabindex: 0, role: "application" });
    this.tabs = h("div", { role: "tablist", "aria-label": "Views", class: "tbx-tabs" }, ...Object.entries(VIEWS).map(([view, { name }]) =>
      h("button", { role: "tab", type: "button", "data-view": view, onclick: () => this.set({ view }) }, name)));
    this.tabs.addEventListener("keydown", (event) => {
      const names = [...this.tabs.children].filter((tab) => !tab.hidden).map((tab) => tab.dataset.view), turn = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
      if (!turn) return;
      event.preventDefault();
      const next = names[(names.indexOf(this.s.view) + turn + names.length) % names.length];
      this.set({ view: next });
      this.tabs.querySelector(`[data-view=${next}]`).focus();
    });
    this.sentence = h("div", { class: "tbx-sentence" });
    this.controls = h("div", { class: "tbx-controls", role: "group", "aria-label": "What is shown" });
    this.film = h("div", { class: "tbx-film", role: "group", "aria-label": "Training steps" });
    this.over = h("div", { class: "tbx-over" });
    this.stage = h("div", { class: "tbx-stage", role: "tabpanel", "aria-label": "View" }, h("div", { class: "tbx-inner" }, this.canvas, this.over));
    this.tip = h("p", { class: "tbx-tip", "aria-hidden": "true" });
    this.summary = h("p", { class: "tbx-summary", role: "status", "aria-live": "polite" });
    this.notes = h("p", { class: "tbx-notes" });
    this.tableBody = h("div", { class: "tbx-table", tabindex: 0, role: "region", "aria-label": "Numbers behind this view" });
    this.details = h("details", { ontoggle: () => this.drawTable() }, h("summary", {}, "Numbers behind this view"), this.tableBody);
    this.files = h("div", { class: "tbx-files", role: "group", "aria-label": "Save this view" }, h("span", {}, "Save this view:"),
      ...["PNG", "SVG", "CSV"].map((kind) => h("button", { type: "button", onclick: () => this.save(kind), "aria-label": `Save this view as ${kind}` }, kind)));
    // data-lm-suppress-shortcuts: JupyterLab would take arrows, Enter and letters for the notebook.
    this.root = h("section", { class: "tbx", "aria-label": "Attention explorer: teacher and student", "data-lm-suppress-shortcuts": "true", onkeydown: (event) => this.pass(event), oncontextmenu: stop },
      this.sentence, this.tabs, this.controls, this.film, this.stage, this.tip, this.summary, this.notes, h("div", { class: "tbx-foot" }, this.files, this.details));
    el.append(this.root);
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("mousemove", (event) => this.mouse(event, "move"));
    this.canvas.addEventListener("mouseleave", () => this.leave());
    this.canvas.addEventListener("click", (event) => this.mouse(event, "click"));
    this.canvas.addEventListener("dblclick", (event) => this.mouse(event, "dblclick"));
  }

  /** Controls that depend on the data: rebuilt when a new text was run. */
  setup() {
    const { n, store } = this, { meta } = n;
    const select = (label, key, options, parse = String) => {
      const box = h("select", { "data-key": key, onchange: () => this.set(this.change(key, parse(box.value))) },
        ...options.map(([value, name, off]) => h("option", { value, disabled: !!off }, name)));
      return h("label", { "data-for": key }, `${label} `, box);
    };
    const check = (label, key) => {
      const box = h("input", { type: "checkbox", "data-key": key, onchange: () => this.set({ [key]: box.checked }) });
      return h("label", { "data-for": key }, box, ` ${label}`);
    };
    const heads = (who) => range(n[who].heads, 1).map((i) => [i, `${i}`]);
    const layers = (who) => range(n[who].layers, 1).map((i) => [i, `${i}`]);
    const tokens = range(n.l).map((i) => [i, `${i + 1} ${meta.tokens[i]}`]);
    const unequal = n.teacher.heads !== n.student.heads;
    this.controls.replaceChildren(
      select("Show", "quantity", [["scores", "raw scores"], ["probabilities", "probabilities"]]),
      select("as", "display", [["map", "maps"], ["lines", "lines"]]),
      select("Frame", "frame", [["loss", "loss"], ["share", "share missed"]]),
      select("Match heads by", "matching", [["index", "number", unequal], ["similarity", "similarity"]]),
      select("Layer mapping", "preset", [["custom", "own choice"], ["uniform", "uniform"], ["top", "top"], ["bottom", "bottom"]]),
      check("[CLS] and [SEP]", "special"), check("padding", "padding"), check("unused teacher layers", "unused"),
      select("Student layer", "layer", layers("student"), Number), select("head", "head", heads("student"), Number),
      select("Teacher layer", "teacher_layer", [[0, "as mapped"], ...layers("teacher")], Number),
      select("head", "teacher_head", [[0, "as matched"], ...heads("teacher")], Number),
      select("Query", "query", tokens, Number), select("Key", "key", tokens, Number));
    this.controls.querySelector('[data-key="head"]').setAttribute("aria-label", "Student head");
    this.controls.querySelector('[data-key="teacher_head"]').setAttribute("aria-label", "Teacher head");
    this.over.replaceChildren(...range(n.student.layers, 1).map((m) => {
      const box = h("select", { "data-layer": m, "aria-label": `Student layer ${m} learns from`, onchange: () => {
        const mapping = [...store.get("mapping")];
        mapping[m] = Number(box.value);
        this.set({ mapping, teacher_layer: 0, teacher_head: 0 });
      } }, ...range(n.teacher.layers, 1).map((k) => h("option", { value: k }, `Teacher ${k}`)));
      return box;
    }));
    const last = n.steps().length - 1;
    this.slider = h("input", { type: "range", min: 0, max: last, step: 1, "aria-label": "Training step", oninput: () => this.set({ step: n.steps()[Number(this.slider.value)] }) });
    this.play = h("button", { type: "button", onclick: () => this.toggle() }, "Play");
    this.stepText = h("output", {});
    this.film.replaceChildren(this.play, this.slider, this.stepText);
    this.film.hidden = last < 1;
    this.tabs.querySelector("[data-view=training]").hidden = !n.snapshots.steps.length;
    this.setupSentence(meta);
    this.notes.textContent = meta.notes.join(" ");
  }

  setupSentence(meta) {
    const says = (who) => (meta[who].answer ? h("span", { class: `tbx-${who}` }, `${who === "teacher" ? "Teacher" : "Student"}: `, h("b", {}, meta[who].answer)) : "");
    const words = h("p", { class: "tbx-text" }, h("q", {}, meta.text), ...(meta.text_pair ? [" / ", h("q", {}, meta.text_pair)] : []));
    const rows = [words, h("p", { class: "tbx-answers" }, says("teacher"), says("student"))];
    if (this.store.live) {
      const first = h("input", { type: "text", value: meta.text, "aria-label": "Sentence" });
      const second = h("input", { type: "text", value: meta.text_pair ?? "", placeholder: "second sentence (optional)", "aria-label": "Second sentence" });
      this.status = h("span", { role: "status", class: "tbx-status" });
      rows.push(h("form", { class: "tbx-form", "aria-label": "Sentence of your own", onsubmit: (event) => {
        event.preventDefault();
        this.status.textContent = "Running both models …";
        this.store.send({ kind: "run", text: first.value, text_pair: second.value });
      } }, first, second, h("button", { type: "submit" }, "Run both models"), this.status));
    }
    // Running a text rebuilds the form; who was typing stays where they were.
    const boxes = () => [...this.sentence.querySelectorAll("input, button")];
    const at = boxes().indexOf(document.activeElement);
    this.sentence.replaceChildren(...rows);
    boxes()[at]?.focus();
  }

  /** What else changes when a control does. */
  change(key, value) {
    const { n } = this;
    if (key === "preset") return value === "custom" ? {} : { mapping: this.preset(value), teacher_layer: 0, teacher_head: 0 };
    if (key === "layer" || key === "head") return { [key]: value, teacher_layer: 0, teacher_head: 0 };
    return { [key]: value };
  }

  /** g(m) of the three strategies; depths that do not divide are rounded, to look at least. */
  preset(name) {
    const { teacher: { layers: N }, student: { layers: M } } = this.n;
    const g = { uniform: (m) => Math.max(1, Math.round((m * N) / M)), top: (m) => Math.max(1, m + N - M), bottom: (m) => Math.min(m, N) }[name];
    return [0, ...range(M, 1).map(g)];
  }

  watch() {
    this.themeOf = matchMedia("(prefers-color-scheme: dark)");
    this.redraw = () => this.draw();
    this.themeOf.addEventListener("change", this.redraw);
    this.mutations = new MutationObserver(this.redraw);
    this.mutations.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light", "class", "data-vscode-theme-kind"] });
    this.sizes = new ResizeObserver(() => { if (this.stage.clientWidth !== this.drawnWidth) this.draw(); });
    this.sizes.observe(this.stage);
    // A patch of several traits tells several times and draws once.
    let due = false;
    this.unwatch = this.store.on((what) => {
      if (what === "data") return this.load();
      if (what === "error") return this.report();
      if (!due) queueMicrotask(() => { due = false; this.draw(); });
      due = true;
      return undefined;
    });
    this.report();
  }

  report() {
    if (this.status) this.status.textContent = this.store.get("error") || "";
  }

  remove() {
    clearInterval(this.timer);
    this.n = null;
    this.mutations.disconnect();
    this.sizes.disconnect();
    this.themeOf.removeEventListener("change", this.redraw);
    this.unwatch?.();
  }

  // -------- drawing

  dark() {
    const { body } = document;
    if (body.dataset.jpThemeLight) return body.dataset.jpThemeLight === "false";
    if (body.dataset.vscodeThemeKind) return body.dataset.vscodeThemeKind.includes("dark");
    return this.themeOf?.matches ?? matchMedia("(prefers-color-scheme: dark)").matches;
  }

  compose() {
    const s = Object.fromEntries(STATE.map((key) => [key, this.store.get(key)])), { n } = this;
    if (!n.steps().includes(s.step)) s.step = -1;
    if (s.view === "training" && !n.snapshots.steps.length) s.view = "heads"; // it has no tab
    if (s.step >= 0) s.padding = false; // snapshots hold real tokens only
    this.s = s;
    this.themeName = this.dark() ? "dark" : "light";
    this.root.dataset.theme = this.themeName;
    const page = getComputedStyle(this.root).getPropertyValue("--tbx-bg").trim();
    this.theme = { ...THEMES[this.themeName], ...(page && { bg: page }) };
    this.seen = n.visible(s);
    if (!this.seen.length) this.seen = range(n.real);
    const nearest = (token) => this.seen.reduce((a, b) => (Math.abs(b - token) < Math.abs(a - token) ? b : a));
    this.at = { query: nearest(s.query), key: nearest(s.key), ...this.hover };
    const [tl, th] = n.partner(s.layer, s.head, s);
    this.pair = { sl: s.layer, sh: s.head, tl: s.teacher_layer || tl, th: s.teacher_head || th };
    this.scene = new Scene(Math.max(560, Math.min(1240, this.stage.clientWidth - 6 || 900)), this.theme);
    this.overlays = [];
    const shown = VIEWS[s.view].draw(this);
    this.scene.height += this.scene.down;
    return shown;
  }

  draw() {
    const began = performance.now(), shown = this.compose(), { scene, s, canvas } = this;
    const ratio = window.devicePixelRatio || 1, width = Math.round(scene.width * ratio), height = Math.round(scene.height * ratio);
    this.drawnWidth = this.stage.clientWidth;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    canvas.style.width = `${scene.width}px`;
    canvas.style.height = `${scene.height}px`;
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    scene.paint(context);
    this.shown = shown;
    this.sync(shown);
    this.root.dataset.milliseconds = (performance.now() - began).toFixed(1);
  }

  /** Controls, summary and table follow the state; hovering does not talk to screen readers. */
  sync(shown) {
    const { s, n } = this;
    for (const tab of this.tabs.children) {
      const on = tab.dataset.view === s.view;
      tab.setAttribute("aria-selected", on);
      tab.tabIndex = on ? 0 : -1;
    }
    const here = { heads: "quantity frame matching preset special padding unused", training: "quantity matching preset special layer head",
      pair: `${s.display === "map" ? "quantity " : ""}display special padding layer head teacher_layer teacher_head query${s.display === "map" ? " key" : ""}`,
      cell: "layer head teacher_layer teacher_head query key", similarity: "quantity preset special" }[s.view].split(" ");
    const preset = ["uniform", "top", "bottom"].find((name) => String(this.preset(name)) === String(s.mapping)) ?? "custom";
    for (const label of this.controls.children) {
      const control = label.querySelector("[data-key]"), key = control.dataset.key, value = { ...s, ...this.at, preset }[key];
      label.hidden = !here.includes(key);
      if (control.type === "checkbox") control.checked = value;
      else control.value = value;
      if (key === "padding") control.disabled = s.step >= 0 || n.l === n.real;
    }
    [...this.over.children].forEach((box, i) => {
      const place = this.overlays[i];
      box.hidden = !place;
      if (!place) return;
      box.style.transform = `translate(${place.x}px, ${place.y}px)`;
      box.value = s.mapping[place.layer];
    });
    const steps = n.steps();
    this.slider.value = steps.indexOf(s.step);
    this.slider.setAttribute("aria-valuetext", n.stepName(s.step));
    this.stepText.textContent = n.stepName(s.step);
    this.canvas.setAttribute("aria-label", `${VIEWS[s.view].name}. ${shown.keys}`);
    if (this.hover) return;
    if (this.summary.textContent !== shown.summary) this.summary.textContent = shown.summary;
    this.tip.textContent = shown.keys;
    this.drawTable();
  }

  drawTable() {
    if (!this.details.open || !this.shown) return;
    const { columns, rows } = this.shown.table(), cell = (v) => (typeof v === "number" && !Number.isInteger(v) ? v.toPrecision(6) : `${v ?? ""}`);
    const table = h("table", {}, h("thead", {}, h("tr", {}, ...columns.map((c) => h("th", { scope: "col" }, c)))),
      h("tbody", {}, ...rows.slice(0, TABLE_ROWS).map((row) => h("tr", {}, ...row.map((v) => h("td", {}, cell(v)))))));
    this.tableBody.replaceChildren(table, ...(rows.length > TABLE_ROWS ? [h("p", {}, `The first ${TABLE_ROWS} of ${rows.length} rows; the CSV has all.`)] : []));
  }

  // -------- hands

  /** Keys pressed in here are not the notebook's, but saving it is. */
  pass(event) {
    event.stopPropagation();
    if (!this.store.live || event.key !== "s" || !(event.ctrlKey || event.metaKey)) return;
    event.preventDefault();
    this.root.parentElement.dispatchEvent(new KeyboardEvent("keydown", event));
  }

  key(event) {
    const { s, n, seen } = this, turn = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    const patch = this.keyPatch(event.key, turn, s, n, seen);
    this.hover = null;
    if (!patch) return;
    event.preventDefault();
    if (patch === "toggle") this.toggle();
    else this.set(patch);
  }

  keyPatch(key, turn, s, n, seen) {
    const wrap = (value, by, count) => ((value - 1 + by + count) % count) + 1;
    if (key === "Escape") return { view: { cell: "pair", pair: "heads" }[s.view] ?? s.view };
    if (key === "Enter") return { view: { heads: "pair", pair: "cell", similarity: "pair", training: "pair" }[s.view] ?? s.view };
    if (key === " " && s.view === "training") return "toggle";
    if (!turn) return null;
    const [down, right] = turn;
    if (s.view === "heads") return { layer: wrap(s.layer, down, n.student.layers), head: wrap(s.head, right, n.student.heads), teacher_layer: 0, teacher_head: 0 };
    if (s.view === "training") {
      const steps = n.steps(), at = clamp(steps.indexOf(s.step) + right, 0, steps.length - 1);
      return { step: steps[at], layer: wrap(s.layer, down, n.student.layers) };
    }
    if (s.view === "similarity") {
      const { sl, sh, tl, th } = this.pair, S = n.student, T = n.teacher;
      const row = wrap((sl - 1) * S.heads + sh, down, S.layers * S.heads) - 1, column = wrap((tl - 1) * T.heads + th, right, T.layers * T.heads) - 1;
      return { layer: Math.floor(row / S.heads) + 1, head: (row % S.heads) + 1, teacher_layer: Math.floor(column / T.heads) + 1, teacher_head: (column % T.heads) + 1 };
    }
    const move = (token, by) => seen[clamp(seen.indexOf(token) + by, 0, seen.length - 1)];
    return { query: move(this.at.query, down), key: move(this.at.key, right) };
  }

  mouse(event, kind) {
    const box = this.canvas.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const hit = this.scene.hits.findLast((a) => x >= a.x && x < a.x + a.w && y >= a.y && y < a.y + a.h);
    this.canvas.style.cursor = hit ? "pointer" : "default";
    if (!hit) return this.leave();
    const [px, py] = [x - hit.x, y - hit.y];
    if (kind === "move") {
      this.tip.textContent = hit.tipAt?.(px, py) ?? hit.tip ?? this.shown.keys;
      if (!hit.move) return undefined;
      const over = hit.move(px, py);
      if (over.query === this.at.query && over.key === this.at.key) return undefined;
      this.hover = over;
      return this.draw();
    }
    const patch = hit.move ? hit.move(px, py) : hit.pick?.(px, py) ?? {};
    this.hover = null;
    return this.set(kind === "dblclick" ? { ...patch, ...hit.open } : patch);
  }

  leave() {
    if (this.shown) this.tip.textContent = this.shown.keys;
    if (!this.hover) return;
    this.hover = null;
    this.draw();
  }

  toggle() {
    const playing = this.play.textContent === "Pause", { n } = this, count = n.snapshots.steps.length;
    clearInterval(this.timer);
    this.play.textContent = playing ? "Play" : "Pause";
    if (playing || !count) return;
    const step = this.store.get("step");
    this.set({ step: step < 0 || step >= count - 1 ? 0 : step });
    this.timer = setInterval(() => {
      const next = this.store.get("step") + 1;
      if (next < count && next > 0) this.set({ step: next });
      if (next >= count - 1 || next <= 0) this.toggle();
    }, 450);
  }

  save(kind) {
    const name = `attention-${this.s.view}.${kind.toLowerCase()}`;
    const give = (blob) => {
      const link = h("a", { href: URL.createObjectURL(blob), download: name });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    };
    if (kind === "CSV") {
      const { columns, rows } = this.shown.table(), quote = (v) => (/[",\n]/.test(v ?? "") ? `"${String(v).replace(/"/g, '""')}"` : v ?? "");
      give(new Blob([[columns, ...rows].map((row) => row.map(quote).join(",")).join("\n") + "\n"], { type: "text/csv" }));
    } else if (kind === "SVG") give(new Blob([this.scene.svg(this.shown.summary)], { type: "image/svg+xml" }));
    else {
      const sheet = document.createElement("canvas"), ratio = 2; // twice the screen, for print
      Object.assign(sheet, { width: this.scene.width * ratio, height: this.scene.height * ratio });
      const context = sheet.getContext("2d");
      context.scale(ratio, ratio);
      this.scene.paint(context);
      sheet.toBlob(give);
    }
  }
}

// ---------------------------------------------------------------- where it runs

/** In a notebook: state lives in the widget's traits, a sentence of one's own goes to the kernel. */
function render({ model, el }) {
  const app = new Explorer(el, {
    live: true,
    get: (key) => model.get(key),
    set: (patch) => { model.set(patch); model.save_changes(); },
    send: (message) => model.send(message),
    on: (tell) => {
      const data = () => tell("data"), error = () => tell("error"), state = () => tell("state");
      model.on("change:meta", data);
      model.on("change:error", error);
      STATE.forEach((key) => model.on(`change:${key}`, state));
      return () => {
        model.off("change:meta", data);
        model.off("change:error", error);
        STATE.forEach((key) => model.off(`change:${key}`, state));
      };
    },
  });
  const show = hideStill(el, model.get("still"));
  return () => { app.remove(); show(); };
}

/** The static picture stored beside the widget is for readers without a kernel: hidden while live. */
function hideStill(el, mark) {
  let hidden = null;
  const timer = setTimeout(() => {
    const still = el.closest(".jp-OutputArea-child")?.previousElementSibling;
    if (mark && still?.querySelector("img")?.src.trim().endsWith(mark)) {
      hidden = still;
      still.style.display = "none";
    }
  });
  return () => { clearTimeout(timer); if (hidden) hidden.style.display = ""; };
}

/** In the file written by to_html: state lives in the page. */
export function mountPage(el, { state, meta, qk, maps }) {
  const decode = (text) => Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer;
  const values = { ...state, meta, qk: decode(qk), maps: decode(maps) };
  let tell = () => {};
  const app = new Explorer(el, {
    live: false,
    get: (key) => values[key],
    set: (patch) => { Object.assign(values, patch); tell("state"); },
    on: (fn) => { tell = fn; return () => { tell = () => {}; }; },
  });
  // Another text, on the live page: meta, qk and maps as buffers.
  app.replace = (given) => { Object.assign(values, given); tell("data"); };
  return app;
}

export default { render };
