// The form: what is set in it as the fields of a request, and the contract's errors beside the field they belong to.

import { fieldInWords } from "/page/words.js";

const MAX_SIDE = 1536;
const RANGES = ["batch", "ip_adapter_scale", "min_similarity", "num_inference_steps", "guidance_scale"];
const OF_PRESET = ["num_inference_steps", "guidance_scale", "negative_prompt"];  // which the quality fast has its own of
const SHOWN_AT = { gender: "gender-word", remove_background: "bg_color", height: "height", width: "width" };

const $ = (id) => document.getElementById(id);

export class SettingsForm {
  /** `changed()` is called when a setting is another one. */
  constructor(changed) {
    this.form = $("form");
    this.apps = [];
    this.touched = new Set(["batch"]);
    this.changed = changed;
    this.form.addEventListener("input", ({ target }) => this.#input(target));
    this.form.addEventListener("reset", () => setTimeout(() => this.#reset()));
    $("app_id").addEventListener("change", () => this.#showApp());
  }

  get app() {
    return this.apps.find((app) => app.app_id === $("app_id").value);
  }

  /** What the service offers; apps that it may not draw with are left out. */
  show({ apps, consent_required: consent }) {
    this.apps = apps.filter((app) => app.available ?? true);
    $("app_id").replaceChildren(...this.apps.map((app) => new Option(app.title, app.app_id)));
    $("app_id").closest(".field").hidden = this.apps.length < 2;
    $("consent").closest(".field").hidden = !consent;
    this.#showApp();
  }

  /** The fields of a request: of what is left as it is, none. Numbers are numbers where they can be read as such. */
  parameters() {
    const data = new FormData(this.form);
    const given = { app_id: this.app?.app_id ?? "face-avatar" };
    const put = (name, value) => { if (value) given[name] = value; };
    const gender = data.get("gender");
    put("gender", gender === "other" ? data.get("gender_word").trim() : gender);
    for (const name of ["style", "prompt", "quality", "negative_prompt", "output_format"]) put(name, (data.get(name) ?? "").trim());
    for (const name of RANGES) if (this.touched.has(name)) given[name] = Number(data.get(name));
    if (given.quality) for (const name of OF_PRESET) delete given[name];
    put("seed", numberOrText(data.get("seed").trim()));
    const [width, height] = this.#size(data);
    put("width", numberOrText(width));
    put("height", numberOrText(height));
    if (data.get("background") === "transparent") given.remove_background = true;
    if (data.get("background") === "colour") given.bg_color = data.get("bg_color");
    if (data.get("consent")) given.consent = true;
    return given;
  }

  /** Unless somebody has said something else. */
  suggestGender(gender) {
    if (this.touched.has("gender")) return;
    this.form.querySelector(`[name="gender"][value="${gender}"]`).checked = true;
    this.#refresh();
  }

  useSeed(seed) {
    $("seed").value = seed;
    $("more").open = true;
    $("seed").focus();
    this.changed();
  }

  /** Puts each error beside its field, and the first of them into focus; gives those of fields that are not shown. */
  showErrors(fields) {
    this.clearErrors();
    const elsewhere = fields.filter((problem) => !this.#showError(problem));
    const first = this.form.querySelector('[aria-invalid="true"]');
    if (first) {
      if (first.closest("details")) $("more").open = true;
      first.focus();
    }
    return elsewhere;
  }

  clearErrors() {
    for (const shown of this.form.querySelectorAll(".field > .error")) shown.remove();
    for (const input of this.form.querySelectorAll("[aria-invalid]")) {
      input.removeAttribute("aria-invalid");
      describe(input, describedBy(input).filter((id) => !id.endsWith("-error")));
    }
  }

  #showError(problem) {
    const input = $(SHOWN_AT[problem.field] ?? problem.field);
    const field = input?.closest(".field");
    if (!field || field.hidden) return false;
    const text = document.createElement("p");
    text.className = "error";
    text.id = `${problem.field}-error`;
    text.textContent = fieldInWords(problem);
    field.append(text);
    input.setAttribute("aria-invalid", "true");
    describe(input, [...describedBy(input), text.id]);
    return true;
  }

  #size(data) {
    const size = data.get("size") ?? "";
    return size === "own" ? [data.get("width"), data.get("height")] : size.split("x").concat("").slice(0, 2);
  }

  #showApp() {
    if (!this.app) return;
    const { defaults, description, licence, prompt, styles = {}, qualities = [], vocabulary } = this.app;
    $("app-about").textContent = `${description} Licence: ${licence}.`;
    $("prompt").placeholder = prompt.replaceAll("{gender_word}", "person");
    $("vocabulary").hidden = !vocabulary;
    const known = Object.values(vocabulary ?? {}).map((words) => words.join(", ")).join("; ");
    $("known-words").textContent = `${known}. It ignores others.`;
    const named = Object.entries(styles).map(([name, { title }]) => new Option(title, name));
    $("style").replaceChildren(new Option("The model’s own", ""), ...named);
    $("style").closest(".field").hidden = $("prompt-in-style").hidden = !named.length;
    $("quality").closest(".field").hidden = qualities.length < 2;
    if (!qualities.includes("fast")) $("quality").checked = true;
    $("num_inference_steps").value = defaults.num_inference_steps;
    $("guidance_scale").value = defaults.guidance_scale;
    $("min_similarity").value = defaults.min_similarity ?? 0;
    $("size").replaceChildren(...sizesOf(defaults).map(([text, value]) => new Option(text, value)));
    [$("width").value, $("height").value] = [defaults.width, defaults.height];
    this.#refresh();
  }

  #input(target) {
    this.touched.add(target.name);
    this.clearErrors();
    this.#refresh();
  }

  #reset() {
    this.touched = new Set(["batch"]);
    this.clearErrors();
    this.#showApp();
  }

  #refresh() {
    const data = new FormData(this.form);
    const own = Object.entries(this.app?.defaults ?? {}).filter(([, value]) => value !== null);
    const automatic = { num_inference_steps: "auto", guidance_scale: "auto", ip_adapter_scale: "auto", min_similarity: "off", ...Object.fromEntries(own) };
    for (const name of RANGES) {
      const text = this.touched.has(name) ? data.get(name) : automatic[name];
      this.form.querySelector(`output[for="${name}"]`).textContent = text;
    }
    for (const name of OF_PRESET) $(name).closest(".field").hidden = data.get("quality") === "fast";
    $("gender-word").hidden = data.get("gender") !== "other";
    $("gender-hint").hidden = !(data.get("gender") && data.get("prompt").trim());
    $("own-size").hidden = data.get("size") !== "own";
    $("colour-row").hidden = data.get("background") !== "colour";
    $("colour-name").textContent = data.get("bg_color");
    this.changed();
  }
}

function describedBy(input) {
  return (input.getAttribute("aria-describedby") ?? "").split(" ").filter(Boolean);
}

function describe(input, ids) {
  if (ids.length) input.setAttribute("aria-describedby", ids.join(" "));
  else input.removeAttribute("aria-describedby");
}

/** What the size field offers: the app's own, others by its shorter side, and one of the user's own. */
function sizesOf({ width, height }) {
  const side = Math.min(width, height);
  const wide = Math.round(side / 6) * 8;
  const large = Math.min(2 * side, MAX_SIDE);
  const others = [["Portrait", side, wide], ["Landscape", wide, side], ["Large", large, large]];
  return [
    [`${width} × ${height}`, ""],
    ...others.map(([name, w, h]) => [`${name} ${w} × ${h}`, `${w}x${h}`]),
    ["Own size…", "own"],
  ];
}

function numberOrText(text) {
  return /^-?\d{1,15}(\.\d+)?$/.test(text) ? Number(text) : text;
}
