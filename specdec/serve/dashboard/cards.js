"use strict";
// The figures: what each one is, and how it is drawn. A card has lines, each with a number and a curve of the last minutes.

const SHOWN = 300_000; // milliseconds that a curve holds
const GAP = 10_000; // milliseconds without a look, over which no line goes
const MOST_LINES = 8; // as many as there are colours
const WIDE = 100, HIGH = 40; // of a curve, in its own units

const count = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });
const fixed = (value) => value.toFixed(2);
const percent = (value) => `${(100 * value).toFixed(value > 0 && value < 0.1 ? 1 : 0)} %`;
const duration = (value) => (value < 1 ? `${(1000 * value).toFixed(value < 0.01 ? 1 : 0)} ms` : `${value.toFixed(value < 10 ? 2 : 0)} s`);

const only = (value) => new Map([["", value]]);
const shares = (parts, whole) => new Map([...parts].map(([name, value]) => [name, whole > 0 ? value / whole : null]));
const quantiles = (name) => (span) => new Map([50, 95, 99].map((q) => [`p${q}`, span.quantile(name, q / 100)]));

function byPosition(span) {
  const accepted = span.each("vllm:spec_decode_num_accepted_tokens_per_pos_total");
  const drafts = span.total("vllm:spec_decode_num_drafts_total");
  const places = [...accepted.keys()].map(Number).sort((a, b) => a - b);
  return shares(places.map((place) => [`position ${place + 1}`, accepted.get(String(place))]), drafts);
}

function goalsMet(span) {
  const names = { ttft: "first token", tpot: "further ones", all: "both" };
  const met = [...span.each("specdec_goal_met_total")].map(([name, value]) => [names[name], value]);
  return shares(met.length > 2 ? met : met.slice(0, 1), span.total("specdec_goal_requests_total"));
}

// `read`: a span → name of a line → value. `top`: of the axis, if it is fixed; `least`: at least. `goal`: a level to stay
// below. `needs`: a figure without which there is no card. `past`: whether it means anything since the server began.
const CARDS = [
  { key: "running", title: "Running requests", says: "now", format: count, least: 1,
    read: (span) => only(span.gauge("vllm:num_requests_running")) },
  { key: "waiting", title: "Waiting requests", says: "the queue, now", format: count, least: 1,
    read: (span) => only(span.gauge("vllm:num_requests_waiting")) },
  { key: "speed", title: "Tokens per second", says: "of all requests", format: count, least: 1,
    read: (span) => only(span.rate("vllm:generation_tokens_total")) },
  { key: "tau", title: "τ", says: "tokens per step of a request", format: fixed, least: 1, past: true,
    read: (span) => only(span.ratio("specdec_drafter_tokens_total", "specdec_drafter_steps_total")) },
  { key: "hits", title: "Prefix hit rate", says: "prompt tokens found in the cache", format: percent, top: 1, past: true,
    read: (span) => only(span.ratio("vllm:prefix_cache_hits_total", "vllm:prefix_cache_queries_total")) },
  { key: "cache", title: "Cache in use", says: "blocks that requests hold, now", format: percent, top: 1,
    read: (span) => only(span.gauge("vllm:kv_cache_usage_perc")) },
  { key: "positions", title: "Acceptance by position", says: "drafts accepted up to there", format: percent, top: 1, past: true,
    read: byPosition },
  { key: "drafters", title: "Who drafted", says: "steps, by whose draft was verified", format: percent, top: 1, past: true,
    read: (span) => shares(span.each("specdec_drafter_steps_total"), span.total("specdec_drafter_steps_total")) },
  { key: "goals", title: "Latency goals met", says: "requests that came to their own end", format: percent, top: 1, past: true, needs: "specdec_goal_requests_total",
    read: goalsMet },
  { key: "ttft", title: "Time to the first token", says: "TTFT", format: duration, goal: "ttft", past: true,
    read: quantiles("vllm:time_to_first_token_seconds") },
  { key: "tpot", title: "Time of each further token", says: "TPOT, of requests that ended", format: duration, goal: "tpot", past: true,
    read: quantiles("vllm:request_time_per_output_token_seconds") },
];

const one = (id) => document.getElementById(id);

function made(tag, name = "", text = "") {
  const node = document.createElement(tag);
  if (name) node.className = name;
  node.textContent = text;
  return node;
}

function drawn(tag, attributes) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function swatch(series) {
  const picture = drawn("svg", { class: "swatch", viewBox: "0 0 28 12", "aria-hidden": "true" });
  picture.append(drawn("line", { class: `series-${series}`, x1: 0, x2: 28, y1: 6, y2: 6 }));
  return picture;
}

class Card {
  constructor(about) {
    Object.assign(this, about);
    this.element = made("figure", "card");
    this.element.id = `card-${this.key}`;
    this.numbers = made("ul", "numbers");
    this.curve = drawn("svg", { class: "curve", role: "img", viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: "none" });
    this.scale = made("span", "scale");
    const title = made("h3", "", this.title);
    title.id = `title-${this.key}`;
    this.element.setAttribute("aria-labelledby", title.id);
    const plot = made("div", "plot");
    plot.append(this.scale, this.curve);
    this.element.append(title, this.numbers, plot, made("figcaption", "caption", this.says));
  }

  // `points`: {time, values: name → value} of the last minutes, the newest last; `begun`: the same since the server began.
  show(points, begun, goal, now) {
    const names = [...new Set(points.flatMap((point) => [...point.values.keys()]))].slice(0, MOST_LINES);
    const newest = points.at(-1).values;
    const numbers = names.map((name, place) => this.number(name, newest.get(name), begun.get(name), place + 1));
    this.numbers.replaceChildren(...(numbers.length ? numbers : [this.number("", null)]));
    this.element.classList.toggle("several", names.some((name) => name !== ""));
    const values = points.flatMap((point) => [...point.values.values()]).filter((value) => value !== null && value !== undefined);
    const top = this.top ?? (Math.max(...values, goal ?? 0, this.least ?? 0) || 1);
    const lines = names.map((name, place) => drawn("path", { class: `series-${place + 1}`, d: line(points, name, top, now) }));
    if (goal) lines.unshift(drawn("path", { class: "goal", d: `M0 ${HIGH - (HIGH * goal) / top}H${WIDE}` }));
    this.curve.replaceChildren(...lines);
    this.scale.textContent = values.length ? this.format(top) : "";
    const range = values.length ? `between ${this.format(Math.min(...values))} and ${this.format(Math.max(...values))}` : "nothing yet";
    this.curve.setAttribute("aria-label", `${this.title}, last 5 minutes: ${range}${goal ? `; goal ${this.format(goal)}` : ""}.`);
  }

  number(name, value, past, series) {
    const item = made("li");
    if (name) item.append(swatch(series), made("span", "name", name));
    item.append(made("strong", "", this.told(value)));
    if (this.past && past !== null && past !== undefined) item.append(made("span", "muted", `(${this.told(past)})`));
    return item;
  }

  told(value) {
    return value === null || value === undefined ? "–" : this.format(value);
  }
}

// A line through what is known; it is broken where nothing is.
function line(points, name, top, now) {
  let steps = "", open = false, last = -Infinity;
  for (const { time, values } of points) {
    const value = values.get(name) ?? null;
    if (value !== null) {
      const x = WIDE * (1 - (now - time) / SHOWN), y = HIGH - (HIGH * Math.min(value, top)) / top;
      steps += open && time - last <= GAP ? `L${x.toFixed(2)} ${y.toFixed(2)}` : `M${x.toFixed(2)} ${y.toFixed(2)}h0`;
    }
    open = value !== null;
    last = time;
  }
  return steps;
}
