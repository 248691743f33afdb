/** Waits between attempts, in milliseconds: the first, the longest, and how long a connection must last to count. */
const FIRST = 500, LONGEST = 8000, LASTED = 5000;
/** The code with which the server lets go of a client that has been silent for long. */
const LET_GO = 1008;

/**
 * A socket of JSON messages that comes back when it is lost; one that the server lets go rests until it is wanted.
 *
 * Events: "open"; "lost"; "message" with detail = the message.
 */
export class Connection extends EventTarget {
  /** Milliseconds until the next attempt; null: there is nothing to wait for. */
  retryIn = null;
  isResting = false;
  #url;
  #socket = null;
  #timer = null;
  #wait = FIRST;
  #online = () => this.wake();

  constructor(url) {
    super();
    this.#url = url;
    addEventListener("online", this.#online);
    this.#connect();
  }

  get isOpen() {
    return this.#socket.readyState === WebSocket.OPEN;
  }

  /** Send a message; false: the connection is not open. */
  send(message) {
    if (this.isOpen) this.#socket.send(JSON.stringify(message));
    return this.isOpen;
  }

  /** Try now rather than after the wait. */
  wake() {
    if (this.retryIn !== null || this.isResting) this.#connect();
  }

  /** For good. */
  close() {
    removeEventListener("online", this.#online);
    clearTimeout(this.#timer);
    const socket = this.#socket;
    this.#socket = null;
    socket.close();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.retryIn = null;
    this.isResting = false;
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    let opened = Infinity;
    socket.addEventListener("open", () => {
      opened = performance.now();
      this.dispatchEvent(new Event("open"));
    });
    socket.addEventListener("message", ({ data }) => {
      if (socket === this.#socket) this.dispatchEvent(new CustomEvent("message", { detail: JSON.parse(data) }));
    });
    socket.addEventListener("close", ({ code }) => {
      if (socket === this.#socket) this.#lost(code, performance.now() - opened);
    });
  }

  #lost(code, lasted) {
    if (code === LET_GO) {
      this.isResting = true;
    } else {
      // a server that takes a connection and drops it at once is not asked again without a pause
      if (lasted > LASTED) this.#wait = FIRST;
      this.retryIn = this.#wait * (0.75 + Math.random() / 2);
      this.#wait = Math.min(2 * this.#wait, LONGEST);
      this.#timer = setTimeout(() => this.#connect(), this.retryIn);
    }
    this.dispatchEvent(new Event("lost"));
  }
}
