import { Choice, make } from "./choice.js";
import { Connection } from "./connection.js";
import { Plot } from "./plot.js";
import { Record, counted } from "./record.js";

/** Below this probability a word is marked. */
const UNSURE = 0.5;
/** The states of a lane, for a reader. */
const STATES = {
  idle: "waiting for text", running: "running", finished: "finished", failed: "stopped", lost: "interrupted",
};

/**
 * One policy on the source: its choice, its session on the server, and what the session has read and written.
 *
 * Events: "connection" when the connection opens or is lost, "finished" with the server's message as detail.
 * Its state is one of "idle", "running", "finished", "failed" and "lost" (with the connection).
 */
export class Lane extends EventTarget {
  state = "idle";
  record = new Record();
  connection;
  /** What the server said when it let go of the connection. */
  farewell = "";
  #model;
  #source;
  #pair;
  #parts;
  #plot;
  #sessions = 0;
  #waiting = [];
  #frame = null;

  /** pair() gives the languages to translate between, of a model of several. */
  constructor({ element, model, source, pair, url, decision }) {
    super();
    this.element = element;
    this.#model = model;
    this.#source = source;
    this.#pair = pair;
    this.#parts = Object.fromEntries(
      ["problem", "read", "written", "lag-words", "lag-time", "laal", "state"]
        .map((name) => [name, element.querySelector(`.${name}`)]));
    this.choice = new Choice(model, element.querySelector(".choice"), element.querySelector(".parameters"), decision);
    this.choice.addEventListener("change", () => this.begin());
    this.#plot = new Plot(element.querySelector(".plot"), element.querySelector("tbody"), model.unit);
    this.connection = new Connection(url);
    this.connection.addEventListener("open", () => this.#opened());
    this.connection.addEventListener("lost", () => this.#lost());
    this.connection.addEventListener("message", ({ detail }) => this.#take(detail));
  }

  /** Begin again, with all that has arrived. */
  begin() {
    if (this.state === "running") this.connection.send({ type: "cancel" });
    const problem = this.choice.problem;
    this.#clear();
    this.#tell(problem);
    if (problem) return this.#become("failed");
    if (!this.#source.text) return this.#become("idle");
    this.#sessions += 1;
    const started = this.connection.send({
      type: "start", session: String(this.#sessions), decision: this.choice.decision, ...this.#pair(),
    });
    this.#become(started ? "running" : "lost");
    if (!started) return this.connection.wake();
    this.read(this.#source.text);
    if (this.#source.ended) this.end();
  }

  /** Words have arrived. */
  read(text) {
    const isAsleep = this.state === "lost" && this.connection.isResting;
    if (this.state === "idle" || isAsleep) return this.begin();
    if (this.state === "running") {
      this.#parcels(text).forEach((parcel) => this.connection.send({ type: "read", text: parcel }));
    }
    this.#draw();
  }

  /** A text in parts that the server takes as messages: JSON has at most six bytes for a code point. */
  #parcels(text) {
    return text.match(new RegExp(`[^]{1,${Math.floor(this.#model.limits.message_bytes / 8)}}`, "gu"));
  }

  /** The source has ended. */
  end() {
    if (this.state === "running") this.connection.send({ type: "end" });
  }

  /** Resolves when the session is over; one that is interrupted begins again with the connection. */
  settled() {
    return new Promise((resolve) => (this.#isOpen ? this.#waiting.push(resolve) : resolve()));
  }

  get #isOpen() {
    return this.state === "running" || this.state === "lost";
  }

  close() {
    this.connection.close();
    this.element.remove();
    this.#become("idle");
  }

  #opened() {
    this.farewell = "";
    if (this.state === "lost") this.begin();
    this.dispatchEvent(new Event("connection"));
  }

  #lost() {
    if (this.state === "running") this.#become("lost");
    this.dispatchEvent(new Event("connection"));
  }

  /** A message of the server; those of sessions that were left behind are not for us any more. */
  #take(message) {
    if ("session" in message && message.session !== String(this.#sessions)) return;
    if (message.fatal) {
      this.farewell = message.reason;
    } else if (message.type === "error") {
      this.#tell(message.reason);
      if ("session" in message) this.#become("failed");
    } else if (this.state === "running") {
      if (message.type === "read") this.record.read(message);
      if (message.type === "write") this.#wrote(message);
      if (message.type === "finished") this.#finished(message);
      this.#draw();
    }
  }

  #wrote(message) {
    this.record.write(message);
    const [, space, unit] = message.text.match(/^(\s*)([^]*)$/);
    const word = make("span", { textContent: unit });
    if (message.probability < UNSURE) {
      word.className = "unsure";
      word.title = `probability ${message.probability.toFixed(2)}`;
    }
    this.#parts.written.append(this.#parts.written.hasChildNodes() ? space : "", word);
  }

  #finished(message) {
    this.#parts.laal.textContent = Number.isFinite(message.laal) ? message.laal.toFixed(2) : "–";
    this.#become("finished");
    if (message.truncated) this.#parts.state.textContent = "ended at the longest target";
    this.dispatchEvent(new CustomEvent("finished", { detail: message }));
  }

  #clear() {
    this.record = new Record();
    this.#parts.written.replaceChildren();
    this.#parts.laal.textContent = "–";
    this.#draw();
  }

  #become(state) {
    this.state = state;
    this.#parts.state.textContent = STATES[state];
    this.element.dataset.state = state;
    if (!this.#isOpen) this.#waiting.splice(0).forEach((resolve) => resolve());
  }

  #tell(problem) {
    this.#parts.problem.textContent = problem ?? "";
    this.#parts.problem.hidden = !problem;
  }

  /** Show what has come, once per frame. */
  #draw() {
    this.#frame ??= requestAnimationFrame(() => {
      this.#frame = null;
      this.#show();
    });
  }

  /** Of what has arrived, what is read and what is not; the lags; the staircase. */
  #show() {
    const inCharacters = this.#model.unit === "character", gap = inCharacters ? "" : " ";
    const read = this.record.reads.map(({ text }) => text);
    const unread = inCharacters ? [] : this.#source.text.split(/\s+/).filter(Boolean).slice(read.length);
    this.#parts.read.replaceChildren(
      read.join(gap), gap, make("span", { className: "unread", textContent: unread.join(gap) }));
    const lag = this.record.lastLag;
    this.#parts["lag-words"].textContent = lag ? counted(lag.units, this.#model.unit) : "–";
    this.#parts["lag-time"].textContent = lag ? `${Math.round(lag.milliseconds)} ms` : "–";
    this.#plot.draw(this.record, unread);
    keepEndInView(this.#parts.read);
    keepEndInView(this.#parts.written);
  }
}

/** Scroll to the end; by keyboard, a text can be reached that is longer than its room. */
function keepEndInView(element) {
  element.scrollTop = element.scrollHeight;
  element.tabIndex = element.scrollHeight > element.clientHeight ? 0 : -1;
}
