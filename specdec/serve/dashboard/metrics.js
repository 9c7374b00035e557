"use strict";
// What /metrics says, and what happened between two looks at it. Everything that the page shows of the server is read here.

const LINE = /^([\w:]+)(?:\{(.*)\})? (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { n: "\n" };
const SHARED = new Set(["model_name", "engine"]); // labels that all figures have

// Prometheus' text → name → own label ("" if there is none) → value, with the model's name, the engines and the time of
// the look. What several engines say is added up.
function parsed(text, time) {
  const look = { time, model: "", engines: new Set(), values: new Map() };
  for (const line of text.split("\n")) {
    const [, name, labels, value] = line.match(LINE) ?? [];
    if (name === undefined) continue;
    let own = "";
    for (const [, key, raw] of (labels ?? "").matchAll(LABEL)) {
      const said = raw.replace(/\\(.)/g, (_, letter) => ESCAPED[letter] ?? letter);
      if (key === "model_name") look.model = said;
      if (key === "engine") look.engines.add(said);
      if (!SHARED.has(key)) own = said;
    }
    if (!look.values.has(name)) look.values.set(name, new Map());
    const values = look.values.get(name);
    values.set(own, (values.get(own) ?? 0) + Number(value.replace("Inf", "Infinity")));
  }
  return look;
}

// What was counted after one look, or since the server began, up to another.
class Span {
  constructor(before, now) {
    this.before = before;
    this.now = now;
    this.seconds = before ? (now.time - before.time) / 1000 : null;
  }

  has(name) {
    return this.now.values.has(name);
  }

  gauge(name) {
    const sum = this.now.values.get(name)?.get("") ?? null;
    return sum !== null && name.endsWith("_perc") ? sum / this.now.engines.size : sum; // a share is one of each engine
  }

  each(name) {
    const earlier = this.before?.values.get(name);
    return new Map([...(this.now.values.get(name) ?? [])].map(([own, value]) => [own, value - (earlier?.get(own) ?? 0)]));
  }

  total(name) {
    return [...this.each(name).values()].reduce((sum, value) => sum + value, 0);
  }

  // A share or a mean: null where there is nothing to divide by.
  ratio(name, of) {
    const whole = this.total(of);
    return whole > 0 ? this.total(name) / whole : null;
  }

  rate(name) {
    return this.seconds ? this.total(name) / this.seconds : null;
  }

  // Quantile of a histogram, on a straight line within its bucket, as Prometheus' histogram_quantile has it.
  quantile(name, q) {
    const buckets = [...this.each(`${name}_bucket`)].map(([bound, count]) => [Number(bound.replace("+Inf", "Infinity")), count]);
    const wanted = q * (buckets.at(-1)?.[1] ?? 0);
    if (!wanted) return null;
    const place = buckets.findIndex(([, count]) => count >= wanted);
    const [low, below] = buckets[place - 1] ?? [0, 0];
    const [high, upTo] = buckets[place];
    return high === Infinity ? low : low + ((high - low) * (wanted - below)) / (upTo - below);
  }
}
