/** Scripts without white space between words. */
const UNSPACED = ["Han", "Hira", "Kana", "Bopo", "Yiii", "Thai", "Laoo", "Khmr", "Mymr", "Tibt"]
  .map((script) => `\\p{sc=${script}}`).join("");
/** Text up to the last character after which a unit is over. */
const WORDS = /^[^]*\s/;
const CHARACTERS = new RegExp(`^[^]*[\\s${UNSPACED}\\u3000-\\u303f\\uff00-\\uffef]`, "u");

/** The part of a text that can be sent, since no unit of it can grow. */
export function wholeUnits(text, unit) {
  return text.match(unit === "character" ? CHARACTERS : WORDS)?.[0] ?? "";
}

/** A line in the pieces in which it is played. */
export function pieces(line, unit) {
  if (unit === "character") return Array.from(new Intl.Segmenter().segment(line), ({ segment }) => segment);
  return (line.match(/\S+/g) ?? []).map((word) => `${word} `);
}

/**
 * What has arrived of the source, and whether it has ended; every lane is told.
 *
 * Words that have been sent stay sent: where the text that is wanted does not begin with them, all begins again.
 */
export class Source {
  text = "";
  ended = false;
  lanes = [];

  /** Make this the text that has arrived. */
  become(text) {
    if (!this.ended && this.text && text.startsWith(this.text)) {
      this.add(text.slice(this.text.length));
    } else if (this.ended || text.trim() !== this.text.trim()) {
      this.begin(text);
    }
  }

  /** Begin again, with this text. */
  begin(text = "") {
    this.text = text.trim() ? text : "";
    this.ended = false;
    this.lanes.forEach((lane) => lane.begin());
  }

  add(text) {
    if (!text) return;
    this.text += text;
    this.lanes.forEach((lane) => lane.read(text));
  }

  end() {
    if (this.ended || !this.text) return;
    this.ended = true;
    this.lanes.forEach((lane) => lane.end());
  }
}

/** Resolves after so many milliseconds, or when the signal aborts; tells whether it has not. */
function pause(milliseconds, signal) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(true), Math.max(0, milliseconds));
    signal.addEventListener("abort", () => { clearTimeout(timer); resolve(false); }, { once: true });
  });
}

/**
 * Play lines at so many units per second, each line as a sentence of its own.
 *
 * rate() is asked before every piece; started(number) is told which line begins.
 */
export async function play(source, lines, { unit, rate, started, signal }) {
  for (const [number, line] of lines.entries()) {
    started(number);
    source.begin();
    let due = performance.now();
    for (const piece of pieces(line, unit)) {
      if (!(await pause(due - performance.now(), signal))) return;
      source.add(piece);
      due += 1000 / rate();
    }
    source.end();
    await Promise.race([
      Promise.all(source.lanes.map((lane) => lane.settled())),
      new Promise((resolve) => signal.addEventListener("abort", resolve, { once: true })),
    ]);
    if (signal.aborted) return;
  }
}
