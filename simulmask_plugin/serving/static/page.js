import { make } from "./choice.js";
import { Lane } from "./lane.js";
import { Source, play, wholeUnits } from "./source.js";

/** Files above this size, in bytes, are not for watching. */
const LARGEST_FILE = 1 << 20;
/** Finished sentences that stay listed. */
const KEPT = 50;
/** Milliseconds between attempts to reach the server while the page opens. */
const PAUSE = 2000;

const part = (id) => document.getElementById(id);
const text = part("text"), note = part("note"), history = part("history");
const source = new Source();
let model = null;
let playing = null;

/** What the server says of its model; asked again until it answers. */
async function askModel() {
  for (;;) {
    try {
      const answer = await fetch("model");
      if (!answer.ok) throw new Error(`The server answers ${answer.status} ${answer.statusText}.`);
      return await answer.json();
    } catch (error) {
      showConnection("lost", `The server cannot be reached; trying again. ${error.message}`);
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}

function showConnection(state, words) {
  if (part("connection").textContent !== words) part("connection").textContent = words;
  part("connection").dataset.state = state;
}

/** The worst that a lane has to say. */
function watchConnections() {
  const connections = source.lanes.map(({ connection }) => connection);
  const waits = connections.map(({ retryIn }) => retryIn).filter((wait) => wait !== null);
  part("retry").hidden = !waits.length;
  const farewell = source.lanes.map((lane) => lane.farewell).find(Boolean) ?? "";
  if (waits.length) {
    const seconds = Math.ceil(Math.max(...waits) / 1000);
    showConnection("lost", `Connection lost. ${farewell} Your text is kept; trying again in ${seconds} s.`);
  } else if (connections.some(({ isResting }) => isResting)) {
    showConnection("resting", `Resting. ${farewell} More text wakes the connection.`);
  } else if (connections.every(({ isOpen }) => isOpen)) {
    showConnection("open", "Connected");
  }
}

/** The languages of a session, of a model with several pairs. */
function pair() {
  if (part("pair-field").hidden) return {};
  const [source_lang, target_lang] = model.languages[part("pair").value];
  return { source_lang, target_lang };
}

function addLane(decision) {
  const element = part("lane").content.firstElementChild.cloneNode(true);
  const url = new URL("stream", location.href.replace(/^http/, "ws"));
  part("lanes").append(element);
  const lane = new Lane({ element, model, source, pair, url, decision });
  lane.addEventListener("connection", watchConnections);
  lane.addEventListener("finished", ({ detail }) => remember(lane, detail));
  element.querySelector(".remove").addEventListener("click", () => removeLane(lane));
  source.lanes.push(lane);
  nameLanes();
  lane.begin();
}

function removeLane(lane) {
  source.lanes.splice(source.lanes.indexOf(lane), 1);
  lane.close();
  nameLanes();
  watchConnections();
  part("compare").focus();
}

/** With two lanes each has a name, and the second can be removed. */
function nameLanes() {
  const several = source.lanes.length > 1;
  source.lanes.forEach(({ element }, index) => {
    const name = several ? `Policy ${"AB"[index]}` : "Translation";
    element.querySelector(".lane-title").textContent = name;
    element.ariaLabel = name;
    element.querySelector(".policy").ariaLabel = `${name}: policy and parameters`;
    element.querySelector("details .wide").ariaLabel = `${name}: steps`;
    element.querySelector(".remove").hidden = index === 0;
  });
  part("lanes").classList.toggle("two", several);
  part("compare").hidden = several;
}

/** A line for a finished sentence, the newest first. */
function remember(lane, { text: translation, laal, ms }) {
  const cells = [source.text, lane.choice.title, translation, laal?.toFixed(2) ?? "–", `${(ms / 1000).toFixed(2)} s`];
  const rows = history.querySelector("tbody");
  rows.prepend(make("tr", {}, ...cells.map((cell, column) =>
    make("td", { textContent: cell, className: column > 2 ? "number" : "", dir: "auto" }))));
  while (rows.rows.length > KEPT) rows.lastElementChild.remove();
  history.hidden = false;
}

function stop() {
  playing?.abort();
  playing = null;
  text.readOnly = false;
  part("play").textContent = "Play";
}

async function playText() {
  const lines = text.value.split("\n").filter((line) => line.trim());
  if (playing || !lines.length) {
    note.textContent = playing ? "Stopped." : "There is nothing to play: type some text, or open a file.";
    return stop();
  }
  const mine = new AbortController();
  playing = mine;
  text.readOnly = true;
  part("play").textContent = "Stop";
  const rate = () => (part("rate").checkValidity() ? part("rate").valueAsNumber : 1);
  const started = (number) => {
    note.textContent = lines.length > 1 ? `Playing line ${number + 1} of ${lines.length}.` : "Playing.";
  };
  await play(source, lines, { unit: model.unit, rate, started, signal: mine.signal });
  if (playing !== mine) return;
  note.textContent = "Played to the end.";
  stop();
}

function sendText() {
  source.become(wholeUnits(text.value, model.unit));
}

function end() {
  if (playing) return;
  if (!text.value.trim()) {
    note.textContent = "There is no text yet.";
    return;
  }
  source.become(text.value);
  source.end();
  note.textContent = "";
}

async function openFile() {
  const [file] = part("file").files;
  part("file").value = "";
  if (!file) return;
  stop();
  if (file.size > LARGEST_FILE) {
    note.textContent = `${file.name} has ${file.size} bytes; the largest that can be played has ${LARGEST_FILE}.`;
    return;
  }
  text.value = await file.text();
  source.begin();
  const lines = text.value.split("\n").filter((line) => line.trim()).length;
  note.textContent = `${file.name}: ${lines === 1 ? "1 line" : `${lines} lines, each a sentence`}. Press Play.`;
  part("play").focus();
}

function clear() {
  stop();
  text.value = "";
  note.textContent = "";
  source.begin();
  text.focus();
}

function listen() {
  text.addEventListener("input", (event) => {
    if (!event.isComposing) sendText();
  });
  text.addEventListener("compositionend", sendText);
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    end();
  });
  part("end").addEventListener("click", end);
  part("play").addEventListener("click", playText);
  part("file").addEventListener("change", openFile);
  part("clear").addEventListener("click", clear);
  part("pair").addEventListener("change", () => source.lanes.forEach((lane) => lane.begin()));
  part("retry").addEventListener("click", () => source.lanes.forEach(({ connection }) => connection.wake()));
  part("compare").addEventListener("click", () => {
    const first = source.lanes[0].choice.decision;
    const other = model.policies.find(({ policy }) => policy !== first.policy);
    addLane(other ? { policy: other.policy } : first);
    source.lanes[1].element.querySelector("select").focus();
  });
}

function describe() {
  const pairs = model.languages.map((names) => names.join(" → "));
  const known = [model.name, model.family, model.layout, ...(pairs.length === 1 ? pairs : [])];
  part("model").textContent = known.filter(Boolean).join(" · ");
  document.title = `${model.name}: simultaneous translation`;
  if (model.unit === "character") {
    part("unit-hint").textContent = "A character is sent as you type it";
    part("rate-unit").textContent = "characters per second";
  }
  part("pair-field").hidden = pairs.length < 2;
  part("pair").append(...pairs.map((words, index) => make("option", { value: index, textContent: words })));
}

/** What was typed while the page was opened, where nobody heard an Enter: it has become the end of the text. */
function openWithText() {
  if (!text.value.endsWith("\n")) return sendText();
  text.value = text.value.trimEnd();
  end();
}

model = await askModel();
describe();
listen();
addLane(model.default);
openWithText();
