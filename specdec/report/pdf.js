"use strict";
// A PDF of one page with vector graphics. Vega draws it as it would draw on a canvas: `PdfContext` has a canvas' methods
// and writes each as an operator of PDF (ISO 32000-1, 8 and 9). Text is set in Helvetica, Greek letters in Symbol: fonts
// that every reader has, so that nothing is embedded.

const HELVETICA = "Helvetica, Arial, 'Liberation Sans', sans-serif";
const GREEK = "αβχδεφγηικλμνοπθρστυωξψζ"; // in Symbol's encoding these are "abcdefghiklmnopqrstuwxyz"
const SYMBOL = "abcdefghiklmnopqrstuwxyz";
const WINDOWS = { "–": "\x96", "—": "\x97", "…": "\x85", "−": "-", "•": "\x95", "‘": "\x91", "’": "\x92", "“": "\x93", "”": "\x94" };
const CIRCLE = 4 / 3; // the factor of Bézier arcs: 4/3 · tan(angle / 4)

class PdfContext {
  constructor(width, height) {
    Object.assign(this, { width, height, pixelRatio: 1, states: [], operators: [], alphas: new Map(), at: [0, 0] });
    this.state = { font: "12px", fillStyle: "#000", strokeStyle: "#000", globalAlpha: 1, lineWidth: 1, lineCap: "butt",
      lineJoin: "miter", miterLimit: 10, lineDashOffset: 0, textAlign: "start", textBaseline: "alphabetic", dash: [],
      matrix: [1, 0, 0, -1, 0, height] }; // a canvas counts downwards, a page upwards
    for (const name of Object.keys(this.state)) {
      Object.defineProperty(this, name, { get: () => this.state[name], set: (value) => (this.state[name] = value) });
    }
    this.ruler = document.createElement("canvas").getContext("2d"); // measures text and reads colours
  }

  write(...parts) {
    this.operators.push(parts.map((part) => (typeof part === "number" ? Number(part.toFixed(4)) : part)).join(" "));
  }

  // State and coordinates
  save() { this.states.push({ ...this.state }); this.write("q"); }
  restore() { if (this.states.length) { this.state = this.states.pop(); this.write("Q"); } }
  transform(a, b, c, d, e, f) {
    const [p, q, r, s, x, y] = this.state.matrix;
    this.state.matrix = [p * a + r * b, q * a + s * b, p * c + r * d, q * c + s * d, p * e + r * f + x, q * e + s * f + y];
  }
  translate(x, y) { this.transform(1, 0, 0, 1, x, y); }
  scale(x, y) { this.transform(x, 0, 0, y, 0, 0); }
  rotate(angle) { this.transform(Math.cos(angle), Math.sin(angle), -Math.sin(angle), Math.cos(angle), 0, 0); }
  setLineDash(dash) { this.state.dash = [...(dash ?? [])]; }
  getLineDash() { return this.state.dash; }

  // Paths: a point is placed as it is given, whatever the coordinates are when the path is painted
  beginPath() { this.path = []; }
  segment(operator, ...points) {
    const [a, b, c, d, e, f] = this.state.matrix;
    for (let i = 0; i < points.length; i += 2) {
      const [x, y] = (this.at = points.slice(i, i + 2));
      this.path.push((a * x + c * y + e).toFixed(3), (b * x + d * y + f).toFixed(3));
    }
    this.path.push(operator);
  }
  moveTo(x, y) { this.segment("m", x, y); }
  lineTo(x, y) { this.segment(this.path.length ? "l" : "m", x, y); }
  bezierCurveTo(a, b, c, d, x, y) { this.segment("c", a, b, c, d, x, y); }
  quadraticCurveTo(a, b, x, y) {
    const [x0, y0] = this.at;
    this.bezierCurveTo(x0 + (2 / 3) * (a - x0), y0 + (2 / 3) * (b - y0), x + (2 / 3) * (a - x), y + (2 / 3) * (b - y), x, y);
  }
  closePath() { this.segment("h"); }
  rect(x, y, width, height) {
    this.moveTo(x, y);
    for (const corner of [[x + width, y], [x + width, y + height], [x, y + height]]) this.lineTo(...corner);
    this.closePath();
  }
  arc(x, y, radius, from, to, backwards = false) {
    let sweep = to - from;
    if (!backwards && sweep < 0) sweep += 2 * Math.PI;
    if (backwards && sweep > 0) sweep -= 2 * Math.PI;
    const parts = Math.max(1, Math.ceil(Math.abs(sweep) / (Math.PI / 2)));
    const step = sweep / parts;
    const reach = CIRCLE * Math.tan(step / 4) * radius;
    const on = (angle) => [x + radius * Math.cos(angle), y + radius * Math.sin(angle)];
    this.lineTo(...on(from));
    for (let part = 0; part < parts; part++) {
      const [one, other] = [from + part * step, from + (part + 1) * step];
      const [[x1, y1], [x2, y2]] = [on(one), on(other)];
      this.bezierCurveTo(x1 - reach * Math.sin(one), y1 + reach * Math.cos(one), x2 + reach * Math.sin(other), y2 - reach * Math.cos(other), x2, y2);
    }
  }

  // Paint
  get zoom() { const [a, b, c, d] = this.state.matrix; return Math.sqrt(Math.abs(a * d - b * c)); }
  fill() { this.paint("f", "rg", this.state.fillStyle); }
  stroke() { this.paint("S", "RG", this.state.strokeStyle); }
  clip() { this.write(...this.path, "W n"); }
  fillRect(x, y, width, height) { this.beginPath(); this.rect(x, y, width, height); this.fill(); }
  clearRect() {}
  drawImage() {}
  paint(operator, colour, style) {
    const { lineWidth, lineCap, lineJoin, miterLimit, dash, lineDashOffset } = this.state;
    if (!this.path.length || !this.colour(colour, style)) return;
    if (operator === "S") {
      this.write(lineWidth * this.zoom, "w", ["butt", "round", "square"].indexOf(lineCap), "J", ["miter", "round", "bevel"].indexOf(lineJoin), "j", miterLimit, "M");
      this.write(`[${dash.join(" ")}]`, lineDashOffset || 0, "d");
    }
    this.write(...this.path, operator);
  }
  colour(operator, style) {
    this.ruler.fillStyle = "#000";
    this.ruler.fillStyle = style; // read back, any CSS colour is #rrggbb or rgba(…)
    const told = this.ruler.fillStyle;
    const parts = told[0] === "#" ? [1, 3, 5].map((i) => parseInt(told.slice(i, i + 2), 16)) : told.match(/[\d.]+/g).map(Number);
    const alpha = (parts[3] ?? 1) * this.state.globalAlpha;
    if (alpha === 0) return false;
    const name = `A${Math.round(255 * alpha)}`;
    this.alphas.set(name, alpha);
    this.write(`/${name} gs`);
    this.write(...parts.slice(0, 3).map((part) => part / 255), operator);
    return true;
  }

  // Text
  get size() { return parseFloat(this.state.font.match(/([\d.]+)px/)?.[1] ?? "12"); }
  get bold() { return /bold|[6-9]00/.test(this.state.font); }
  measureText(text) { this.ruler.font = `${this.bold ? "bold " : ""}${this.size}px ${HELVETICA}`; return this.ruler.measureText(text); }
  strokeText() {}
  placed(x, y) { // letters stand upright where the canvas counts downwards
    const [a, b, c, d, e, f] = this.state.matrix;
    return [a, b, -c, -d, a * x + c * y + e, b * x + d * y + f];
  }
  fillText(text, x, y) {
    if (!this.colour("rg", this.state.fillStyle)) return;
    const share = { center: 0.5, right: 1, end: 1 }[this.state.textAlign] ?? 0;
    let left = x - share * this.measureText(text).width;
    for (const run of text.match(new RegExp(`[${GREEK}]+|[^${GREEK}]+`, "g")) ?? []) {
      const greek = GREEK.includes(run[0]);
      const codes = [...run].map((letter) => (greek ? SYMBOL[GREEK.indexOf(letter)] : WINDOWS[letter] ?? (letter < "\u0100" ? letter : "?")));
      this.write("BT", `/${greek ? "Symbol" : this.bold ? "Bold" : "Regular"}`, this.size, "Tf", ...this.placed(left, y), "Tm", `(${codes.join("").replace(/[\\()]/g, "\\$&")})`, "Tj ET");
      left += this.measureText(run).width;
    }
  }

  // The file: its objects, a table of where they begin, and a trailer. All of it is Latin-1.
  file() {
    const content = [...this.operators, ...this.states.map(() => "Q")].join("\n");
    const alphas = [...this.alphas].map(([name, alpha]) => `/${name} << /ca ${alpha.toFixed(3)} /CA ${alpha.toFixed(3)} >>`).join(" ");
    const font = (name, encoding = "") => `<< /Type /Font /Subtype /Type1 /BaseFont /${name} ${encoding}>>`;
    const latin = "/Encoding /WinAnsiEncoding ";
    const objects = [
      "<< /Type /Catalog /Pages 2 0 R >>",
      "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
      `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 ${this.width} ${this.height}] /Contents 4 0 R /Resources << /ExtGState << ${alphas} >> /Font << /Regular 5 0 R /Bold 6 0 R /Symbol 7 0 R >> >> >>`,
      `<< /Length ${content.length} >>\nstream\n${content}\nendstream`,
      font("Helvetica", latin),
      font("Helvetica-Bold", latin),
      font("Symbol"),
    ];
    let text = "%PDF-1.4\n";
    const starts = objects.map((object, i) => {
      const start = text.length;
      text += `${i + 1} 0 obj\n${object}\nendobj\n`;
      return start;
    });
    const table = starts.map((start) => `${String(start).padStart(10, "0")} 00000 n \n`).join("");
    text += `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${table}trailer\n<< /Size ${objects.length + 1} /Root 1 0 R >>\nstartxref\n${text.length}\n%%EOF\n`;
    return Uint8Array.from(text, (letter) => letter.charCodeAt(0));
  }
}
