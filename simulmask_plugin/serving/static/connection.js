/** Waits between attempts, in milliseconds: the first, the longest, and how long a connection must last to count. */
const FIRST = 500, LONGEST = 8000, LASTED = 5000;

/**
 * A socket of JSON messages that comes back when it is lost.
 *
 * Events: "open"; "lost" with detail = milliseconds until the next attempt; "message" with detail = the message.
 */
export class Connection extends EventTarget {
  #url;
  #socket = null;
  #timer = null;
  #wait = FIRST;
  #online = () => this.retry();

  constructor(url) {
    super();
    this.#url = url;
    addEventListener("online", this.#online);
    this.#connect();
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Whether the message went out. */
  send(message) {
    if (this.isOpen) this.#socket.send(JSON.stringify(message));
    return this.isOpen;
  }

  /** Try now rather than after the wait. */
  retry() {
    if (this.#timer !== null) this.#connect();
  }

  /** For good. */
  close() {
    removeEventListener("online", this.#online);
    clearTimeout(this.#timer);
    this.#timer = null;
    const socket = this.#socket;
    this.#socket = null;
    socket.close();
  }

  #connect() {
    clearTimeout(this.#timer);
    this.#timer = null;
    const socket = new WebSocket(this.#url);
    this.#socket = socket;
    let opened = Infinity;
    socket.addEventListener("open", () => {
      opened = performance.now();
      this.#tell("open");
    });
    socket.addEventListener("message", (event) => this.#tell("message", JSON.parse(event.data)));
    socket.addEventListener("close", () => {
      if (socket !== this.#socket) return;
      // a server that takes a connection and drops it at once is not asked again and again without a pause
      if (performance.now() - opened > LASTED) this.#wait = FIRST;
      const wait = this.#wait * (0.75 + Math.random() / 2);
      this.#wait = Math.min(2 * this.#wait, LONGEST);
      this.#timer = setTimeout(() => this.#connect(), wait);
      this.#tell("lost", wait);
    });
  }

  #tell(type, detail = null) {
    this.dispatchEvent(new CustomEvent(type, { detail }));
  }
}
