/** The policy whose prompt may ask for a latency. */
const WITH_PROMPT = "model_driven";

/** An element with properties and children. */
export function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** A policy and its parameters, among those that the model can do; "change" when another valid one is chosen. */
export class Choice extends EventTarget {
  #model;
  #select;
  #fields;

  constructor(model, select, fields, decision) {
    super();
    this.#model = model;
    this.#select = select;
    this.#fields = fields;
    select.append(...model.policies.map(({ policy, title }) => make("option", { value: policy, textContent: title })));
    select.value = decision.policy ?? (decision.latency ? WITH_PROMPT : model.policies[0].policy);
    this.#show(decision);
    select.addEventListener("change", () => {
      this.#show({});
      this.#changed();
    });
    fields.addEventListener("change", () => this.#changed());
  }

  /** As the server takes it. */
  get decision() {
    const decision = { policy: this.#select.value };
    for (const field of this.#controls) {
      if (field.value === "" || field.disabled) continue;
      decision[field.name] = field.type === "number" || field.name === "laal" ? Number(field.value) : field.value;
    }
    return decision;
  }

  /** For a reader, e.g. "wait-k, k 3". */
  get title() {
    const { policy, ...values } = this.decision;
    return [this.#policy.title, ...Object.entries(values).map(([name, value]) => `${named(name)} ${value}`)].join(", ");
  }

  /** What is wrong with a field; null: nothing. */
  get problem() {
    const field = this.#controls.find((control) => !control.checkValidity());
    if (!field) return null;
    const kind = field.dataset.kind === "integer" ? "a whole number" : "a number";
    return `${named(field.name)} must be ${kind} from ${field.min}${field.max ? ` to ${field.max}` : " on"}.`;
  }

  get #controls() {
    return [...this.#fields.querySelectorAll("input, select")];
  }

  get #policy() {
    return this.#model.policies.find(({ policy }) => policy === this.#select.value);
  }

  #changed() {
    this.#withoutThreshold();
    this.dispatchEvent(new Event("change"));
  }

  /** The fields of the policy, with the values of a decision, else their defaults. */
  #show(decision) {
    const { parameters, laal, policy } = this.#policy;
    const fields = parameters.map((parameter) => number(parameter, decision[parameter.name] ?? parameter.default));
    if (policy === WITH_PROMPT && this.#model.latencies.length) {
      const latencies = this.#model.latencies.map((latency) => [latency, latency]);
      fields.unshift(list("latency", latencies, decision.latency ?? this.#model.default.latency));
    }
    if (laal.length) {
      fields.unshift(list("laal", [["", "not set"], ...laal.map((value) => [value, value])], decision.laal ?? ""));
    }
    this.#fields.replaceChildren(...fields);
    this.#withoutThreshold();
  }

  /** A laal stands for a threshold, so that the field of the threshold has no meaning beside it. */
  #withoutThreshold() {
    const laal = this.#controls.find((field) => field.name === "laal");
    const threshold = this.#controls.find((field) => field.name === this.#policy.threshold);
    if (laal && threshold) threshold.disabled = laal.value !== "";
  }
}

/** A parameter's name as its label. */
function named(name) {
  return name === "laal" ? "LAAL" : name.replaceAll("_", " ");
}

function number({ name, type, least, most, step, help }, value) {
  const input = make("input", {
    type: "number", name, value: value ?? "", min: least ?? "", max: most ?? "", title: help ?? "",
    step: type === "integer" ? step ?? 1 : "any", required: value !== null && value !== undefined,
  });
  input.dataset.kind = type;
  return make("label", {}, `${named(name)} `, input);
}

function list(name, options, value) {
  const offered = options.map(([key, text]) => make("option", { value: key, textContent: text }));
  const select = make("select", { name }, ...offered);
  if (value !== undefined) select.value = value;
  return make("label", {}, `${named(name)} `, select);
}
