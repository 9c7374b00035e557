"use strict";
// A prompt, and its answer as it streams: who made which token, τ and tokens per second.

const MOST_PARTS = 5000; // of a text that are shown; then the first ones go
let asking = null; // ends the answer that is on its way

function wanted() {
  const text = one("prompt").value;
  const chat = one("kind").value === "chat";
  const drafter = one("drafter").value;
  return {
    ...(chat ? { messages: [{ role: "user", content: text }] } : { prompt: text }),
    ...(drafter === "none" ? { num_draft_tokens: 0 } : drafter ? { drafter } : {}),
    temperature: one("temperature").valueAsNumber,
    max_tokens: one("tokens").valueAsNumber,
    stream: true,
    stream_options: { include_usage: true },
    return_steps: true,
  };
}

// The answer so far.
class Answer {
  constructor() {
    this.began = performance.now();
    this.first = this.metrics = null;
    this.tokens = this.steps = 0;
    this.makers = new Map(); // who → tokens
    one("text").replaceChildren();
    this.tell();
  }

  take(event) {
    if (event.error) throw new Error(event.error.message);
    for (const step of event.choices.flatMap((choice) => choice.steps ?? [])) this.step(step);
    this.metrics = event.metrics ?? this.metrics;
    this.tell();
  }

  step({ drafter, accepted_tokens, tokens, pieces }) {
    this.first ??= performance.now();
    this.steps += 1;
    this.tokens += tokens;
    const drafted = Math.min(accepted_tokens, tokens);
    if (drafted) this.makers.set(drafter, (this.makers.get(drafter) ?? 0) + drafted);
    const text = one("text");
    const atEnd = text.scrollTop + text.clientHeight >= text.scrollHeight - 8;
    for (const piece of pieces) append(piece.text, piece.drafted ? drafter : "");
    if (atEnd) text.scrollTop = text.scrollHeight;
  }

  tell() {
    const now = performance.now();
    const first = this.metrics?.time_to_first_token_ms ?? (this.first && this.first - this.began);
    const speed = this.metrics?.tokens_per_second ?? (1000 * this.tokens) / (now - this.began);
    figures({
      τ: this.steps ? fixed(this.tokens / this.steps) : "–",
      "tokens/s": this.tokens ? count(speed) : "–",
      tokens: this.tokens,
      steps: this.steps,
      "first token": first ? duration(first / 1000) : "–",
    });
    const drafted = [...this.makers].map(([drafter, tokens]) => legend(`${drafter}, accepted`, tokens, drafter));
    const own = this.tokens - [...this.makers.values()].reduce((sum, tokens) => sum + tokens, 0);
    one("makers").replaceChildren(...drafted, legend("the target itself", own, ""));
  }
}

function figures(told) {
  one("answer-figures").replaceChildren(
    ...Object.entries(told).map(([name, value]) => {
      const pair = made("div");
      pair.append(made("dt", "", name), made("dd", "", String(value)));
      return pair;
    }),
  );
}

function legend(name, tokens, drafter) {
  const item = made("li");
  item.append(made("span", drafter ? `drafted by-${place(drafter)}` : "", name), ` ${tokens}`);
  return item;
}

function place(drafter) {
  return 1 + Math.max(0, [...one("drafter").options].slice(1).findIndex((option) => option.value === drafter)) % MOST_LINES;
}

// More of the text, to the part before it if both have one maker.
function append(text, drafter) {
  const last = one("text").lastElementChild;
  if (last && last.title === drafter) {
    last.lastChild.appendData(text);
    return;
  }
  const part = made("span", drafter ? `drafted by-${place(drafter)}` : "");
  part.title = drafter;
  part.append(...(drafter ? [made("span", "hidden", `${drafter}: `)] : []), document.createTextNode(text));
  one("text").append(part);
  if (one("text").childElementCount > MOST_PARTS) one("text").firstElementChild.remove();
}

// Server-sent events, until the last.
async function* events(response) {
  let rest = "";
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The server went away before the answer was complete.");
    const frames = (rest + value).split("\n\n");
    rest = frames.pop();
    for (const frame of frames) {
      if (frame === "data: [DONE]") return;
      if (frame.startsWith("data: ")) yield JSON.parse(frame.slice(6));
    }
  }
}

async function ask() {
  asking?.abort();
  const own = (asking = new AbortController());
  const answer = new Answer();
  busy(true);
  say("The answer is on its way.");
  try {
    const where = one("kind").value === "chat" ? "v1/chat/completions" : "v1/completions";
    const json = { "Content-Type": "application/json" };
    const response = await asked(where, { method: "POST", headers: json, body: JSON.stringify(wanted()), signal: own.signal });
    if (response.status === 401) askForKey();
    if (!response.ok) throw new Error((await response.json()).error.message);
    for await (const event of events(response)) if (own === asking) answer.take(event);
    if (own === asking) say(`Done: ${answer.tokens} tokens in ${answer.steps} steps.`);
  } catch (error) {
    if (own !== asking) return;
    if (own.signal.aborted) say("Stopped.");
    else say(error instanceof TypeError ? "The server does not answer." : error.message, true);
  } finally {
    if (own === asking) busy(false);
  }
}

function say(text, bad = false) {
  one("answer-state").textContent = text;
  one("answer-state").classList.toggle("bad", bad);
}

function busy(is) {
  one("stop").disabled = !is;
  one("text").setAttribute("aria-busy", String(is));
}

function nameDrafters(names) {
  const known = [...one("drafter").options].map((option) => option.value);
  for (const name of names) if (!known.includes(name)) one("drafter").append(new Option(name === "none" ? "none: plain decoding" : name, name));
}

one("ask-form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
one("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) one("ask-form").requestSubmit();
});
one("stop").addEventListener("click", () => asking?.abort());
