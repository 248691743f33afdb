/**
 * What a session has read and written.
 *
 * A step is {kind: "READ" | "WRITE", text, g, written, ms, probability}: after it, g source units had been read and so
 * many target units written. A READ also has `from`, g before it: a word may be several units, where units are tokens.
 */
export class Record {
  steps = [];

  get reads() {
    return this.steps.filter(({ kind }) => kind === "READ");
  }

  get writes() {
    return this.steps.filter(({ kind }) => kind === "WRITE");
  }

  /** Source units read by now. */
  get g() {
    return this.steps.at(-1)?.g ?? 0;
  }

  read({ unit, g, ms }) {
    this.steps.push({ kind: "READ", text: unit, from: this.g, g, written: this.writes.length, ms });
  }

  write({ text, g, ms, probability }) {
    this.steps.push({ kind: "WRITE", text, g, written: this.writes.length + 1, ms, probability });
  }

  /**
   * How far a WRITE was behind the source: in units, g(t) - (t - 1), and in milliseconds since source unit t had been
   * read, or the last one, where the source is shorter.
   */
  lag({ g, written, ms }) {
    const counterpart = this.reads.find((read) => read.g >= Math.min(written, g));
    return { units: g - written + 1, milliseconds: counterpart ? ms - counterpart.ms : ms };
  }

  get lastLag() {
    const last = this.writes.at(-1);
    return last ? this.lag(last) : null;
  }
}

/** A number of units, in words: "3 words". */
export function counted(number, unit) {
  return `${number} ${unit}${number === 1 ? "" : "s"}`;
}
