"use strict";
// Looks at /metrics again and again, keeps the last minutes, and says when the server is not there.

const EVERY = 2000; // milliseconds between two looks
const WINDOW = 30_000; // milliseconds that a number is about
const PATIENCE = 10_000; // milliseconds after which the server counts as gone

const cards = CARDS.map((about) => new Card(about));
let looks = []; // of the last WINDOW
let points = []; // {time, values: card → name → value} of the last SHOWN
let key = null; // of the API; in this variable alone, so it is gone with the page
let waiting = null; // the timer of the next look
let seen = null; // when the server last answered

function headers(more = {}) {
  return key === null ? more : { ...more, Authorization: `Bearer ${key}` };
}

async function asked(path, options = {}) {
  return fetch(path, { ...options, headers: headers(options.headers), cache: "no-store", redirect: "error" });
}

async function watch() {
  clearTimeout(waiting);
  if (!document.hidden) await look();
  clearTimeout(waiting);
  waiting = setTimeout(watch, EVERY);
}

async function look() {
  try {
    const signal = AbortSignal.timeout(PATIENCE);
    const [health, metrics] = await Promise.all([asked("health", { signal }), asked("metrics", { signal })]);
    if (metrics.status === 401) return askForKey();
    if (!metrics.ok) return tell(`The server answers ${metrics.status} where its figures were asked for. Trying again.`, true);
    one("login").hidden = true;
    note(parsed(await metrics.text(), Date.now()));
    if (health.ok) tell("Live.");
    else tell((await health.json()).error.message, true);
  } catch {
    const since = seen ? ` since ${new Date(seen).toLocaleTimeString()}; the figures are of that time` : "";
    tell(`The server does not answer${since}. Trying again.`, true);
  }
}

function note(now) {
  const birth = (look) => look?.values.get("vllm:generation_tokens_created")?.get("");
  if (birth(looks.at(-1)) !== birth(now)) [looks, points] = [[], []]; // another server, whose counts begin at 0
  seen = now.time;
  looks = [...looks.filter((look) => now.time - look.time <= WINDOW), now];
  const span = new Span(looks.length > 1 ? looks[0] : null, now);
  const here = cards.filter((card) => !card.needs || span.has(card.needs));
  const values = new Map(here.map((card) => [card.key, looks.length > 1 || !card.past ? card.read(span) : new Map()]));
  points = [...points.filter((point) => now.time - point.time <= SHOWN), { time: now.time, values }];
  show(here, now);
}

function show(here, now) {
  const begun = new Span(null, now);
  one("model").textContent = now.model;
  if (one("cards").childElementCount !== here.length) one("cards").replaceChildren(...here.map((card) => card.element));
  for (const card of here) {
    const past = card.read(begun);
    const own = points.map((point) => ({ time: point.time, values: point.values.get(card.key) ?? new Map() }));
    for (const name of past.keys()) if (!own.at(-1).values.has(name)) own.at(-1).values.set(name, null);
    card.show(own, past, now.values.get("specdec_goal_seconds")?.get(card.goal), now.time);
  }
  nameDrafters([...(now.values.get("specdec_drafter_steps_total")?.keys() ?? [])]);
}

function tell(text, bad = false) {
  document.body.classList.toggle("lost", bad);
  if (one("state").textContent !== text) one("state").textContent = text;
  one("state").classList.toggle("bad", bad);
}

function askForKey() {
  tell(key === null ? "This server asks for its API key." : "That is not the server's API key.", true);
  key = null;
  one("login").hidden = false;
}

one("login").addEventListener("submit", (event) => {
  event.preventDefault();
  key = one("key").value;
  one("key").value = "";
  watch();
});
document.addEventListener("visibilitychange", () => document.hidden || watch());
watch();
