import { make } from "./choice.js";
import { counted } from "./record.js";

const SVG = "http://www.w3.org/2000/svg";
/** Sizes of a cell, in pixels, and how many cells there are at least along an axis. */
const NARROWEST = 20, WIDEST = 72, HIGHEST = 36, FEWEST = 8;
/** Room on the right for the lag beside the last step; a narrow drawing has it for the last label alone. */
const RIGHT = 130, SLIM = 34, NARROW = 480;
/** Room above and below for half the width of a line, or of the head. */
const EDGE = 3, FOOT = 12;
/** Letters that fit above the columns and on the left. */
const LETTERS = 14;

/**
 * The staircase of a session: source units from left to right, target units from top to bottom. A READ goes one to the
 * right, a WRITE one down. The words stay in view when the drawing is scrolled; the table has the same steps in words.
 */
export class Plot {
  #box;
  #table;
  #unit;
  #corner = make("div", { className: "corner" });
  #above = svg("svg", { class: "above", "aria-hidden": "true" });
  #left = svg("svg", { class: "left", "aria-hidden": "true" });
  #stairs = svg("svg", { class: "stairs", "aria-hidden": "true" });
  #shapes = {};
  /** Of a cell and of the room on the right; height is null where all is to be drawn again. */
  #size = { width: 0, height: null, right: 0 };
  #record = null;
  #unread = [];

  constructor(box, table, unit) {
    this.#box = box;
    this.#table = table;
    this.#unit = unit;
    for (const name of ["grid", "seen", "new", "diagonal", "lag", "reads", "writes"]) {
      this.#shapes[name] = svg("path", { class: name }, this.#stairs);
    }
    this.#shapes.head = svg("circle", { class: "head", r: 6 }, this.#stairs);
    this.#shapes.words = svg("text", { class: "lag-words" }, this.#stairs);
    box.append(this.#corner, this.#above, this.#left, this.#stairs);
    new ResizeObserver(() => this.#draw()).observe(box);
  }

  /** Draw a record, with the words that have arrived and are not read yet. */
  draw(record, unread) {
    if (record !== this.#record) {
      this.#table.replaceChildren();
      this.#size.height = null;
    }
    [this.#record, this.#unread] = [record, unread];
    this.#draw();
  }

  #draw() {
    const record = this.#record, unread = this.#unread;
    if (!record) return;
    const { writes } = record;
    const columns = Math.max(FEWEST, record.g + unread.length), rows = Math.max(FEWEST, writes.length);
    this.#fit(columns);
    const { width: w, height: h, right } = this.#size;
    const width = columns * w + right, height = EDGE + rows * h + FOOT;
    resize(this.#above, width, this.#corner.offsetHeight);
    resize(this.#left, this.#corner.offsetWidth, height, EDGE);
    resize(this.#stairs, width, height, EDGE);
    this.#label(record, unread);
    this.#draws(record, columns, rows);
    this.#list(record);
    this.#box.dataset.empty = record.steps.length || unread.length ? "no" : "yes";
    this.#box.ariaLabel = this.#inWords(record);
  }

  /** Give the columns the width that there is. */
  #fit(columns) {
    const room = this.#box.clientWidth - this.#corner.offsetWidth, right = room < NARROW ? SLIM : RIGHT;
    const width = Math.min(WIDEST, Math.max(NARROWEST, Math.floor((room - right) / columns)));
    if (this.#size.height === null || width !== this.#size.width) {
      this.#above.replaceChildren();
      this.#left.replaceChildren();
    }
    this.#size = { width, height: Math.min(width, HIGHEST), right };
  }

  /** The source words above their columns, the target units before their rows. */
  #label({ reads, writes, g }, unread) {
    const { width: w, height: h } = this.#size;
    const words = [...reads, ...unread.map((text, index) => ({ text, from: g + index, g: g + index + 1 }))];
    words.forEach(({ text, from, g: to }, index) => {
      const x = (from + to) / 2 * w + 3, y = this.#corner.offsetHeight - 8;
      const label = this.#above.children[index] ?? svg("text", {}, this.#above, shorten(text));
      label.setAttribute("x", x);
      label.setAttribute("y", y);
      label.setAttribute("transform", `rotate(-45 ${x} ${y})`);
      label.setAttribute("class", index < reads.length ? "read" : "unread");
    });
    const x = this.#corner.offsetWidth - 10;
    writes.slice(this.#left.children.length).forEach(({ text, written }) => {
      svg("text", { x, y: (written - 0.5) * h, class: "written" }, this.#left, shorten(text));
    });
  }

  #draws(record, columns, rows) {
    const { width: w, height: h } = this.#size, shapes = this.#shapes;
    const at = (x, y) => `${x * w} ${y * h}`;
    const bar = (from, to, row) => `M${at(from, row)}H${to * w}v${h}H${from * w}z`;
    const paths = { grid: "", seen: "", new: "", reads: "", writes: "", lag: "", diagonal: "" };
    for (let column = 0; column <= columns; column++) paths.grid += `M${at(column, 0)}V${rows * h}`;
    for (let row = 0; row <= rows; row++) paths.grid += `M${at(0, row)}H${columns * w}`;
    paths.diagonal = `M0 0L${at(Math.min(columns, rows), Math.min(columns, rows))}`;
    let before = 0;
    for (const { kind, from, g, written } of record.steps) {
      if (kind === "READ") {
        paths.reads += `M${at(from, written)}H${g * w}`;
      } else {
        paths.writes += `M${at(g, written - 1)}v${h}`;
        paths.seen += bar(0, before, written - 1);
        paths.new += bar(before, g, written - 1);
        before = g;
      }
    }
    const last = record.steps.at(-1) ?? { g: 0, written: 0 };
    shapes.head.setAttribute("cx", last.g * w);
    shapes.head.setAttribute("cy", last.written * h);
    this.#lag(record, paths);
    Object.entries(paths).forEach(([name, path]) => shapes[name].setAttribute("d", path));
    this.#follow(last);
  }

  /** The cells by which the last WRITE was behind, and how long. */
  #lag(record, paths) {
    const { width: w, height: h, right } = this.#size, lag = record.lastLag, words = this.#shapes.words;
    words.textContent = "";
    if (!lag) return;
    const { g, written } = record.writes.at(-1);
    const y = (written - 0.5) * h;
    if (lag.units > 0) paths.lag = `M${(written - 1) * w + 3} ${y - 4}v8m0 -4H${g * w - 3}m0 -4v8`;
    if (right < RIGHT) return;
    words.textContent = `${counted(lag.units, this.#unit)}, ${Math.round(lag.milliseconds)} ms`;
    words.setAttribute("x", g * w + 12);
    words.setAttribute("y", y);
  }

  /** Keep the last step in view. */
  #follow({ g, written }) {
    const { width: w, height: h, right } = this.#size, box = this.#box;
    box.scrollTo({
      left: g * w + this.#corner.offsetWidth + right - box.clientWidth,
      top: (written + 1) * h + this.#corner.offsetHeight - box.clientHeight,
    });
  }

  /** The steps that the table does not have yet. */
  #list(record) {
    const rows = record.steps.slice(this.#table.rows.length).map((step) => {
      const { kind, text, g, ms, probability } = step;
      const cells = [kind, text.trim(), g, kind === "WRITE" ? record.lag(step).units : "", `${Math.round(ms)} ms`,
        probability?.toFixed(2) ?? ""];
      return make("tr", { className: kind.toLowerCase() }, ...cells.map((cell, column) =>
        make("td", { textContent: cell, className: column > 1 ? "number" : "" })));
    });
    this.#table.append(...rows);
  }

  #inWords({ g, writes, lastLag }) {
    const lag = lastLag ? `, the last one ${counted(lastLag.units, this.#unit)} behind` : "";
    const done = `${counted(g, this.#unit)} read, ${writes.length} written${lag}`;
    return `Staircase: ${done}. The table below has every step.`;
  }
}

function shorten(text) {
  const letters = [...text.trim()];
  return letters.length > LETTERS ? `${letters.slice(0, LETTERS - 1).join("")}…` : letters.join("");
}

/** Sizes of a drawing whose origin is so far below its upper edge. */
function resize(element, width, height, top = 0) {
  element.setAttribute("viewBox", `0 ${-top} ${width} ${height}`);
  element.setAttribute("width", width);
  element.setAttribute("height", height);
}

function svg(tag, attributes, parent, text = "") {
  const element = document.createElementNS(SVG, tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.textContent = text;
  parent?.append(element);
  return element;
}
