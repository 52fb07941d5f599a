// The contract's errors in plain words.

const PHOTO_REASONS = {
  broken: "This picture is damaged.",
  too_small: "This picture is too small or too narrow.",
  too_large: "This file is too large.",
};

const WORDS = {
  Unreachable: "The service does not answer. Is it still running?",
  "No Token": "Enter your token first.",
  Unauthorized: "The service does not know this token.",
  Forbidden: "This token may not do that.",
  "Request Too Large": "This file is too large.",
  "Unknown App": "This style is not offered any more. Reload the page.",
  "Unknown Task": "The service has forgotten this task.",
  "NSFW Content": "All images were withheld by the safety check. Another prompt or seed may help.",
  Timeout: "It took too long and was given up. Try again, with fewer images or steps.",
};

/** One or two sentences for any error of the client. */
export function inWords(error) {
  const photo = error.data.photo;
  return photo === undefined ? told(error) : `Photo ${photo + 1}: ${told(error)}`;
}

function told({ name, data }) {
  if (name === "Image URL Error") return PHOTO_REASONS[data.reason] ?? sentence(data.message);
  if (data.reason === "different_people") return "It shows somebody else than the others. All photos should show one person.";
  if (name === "Face Consistent Error") return `${sentence(data.message)} A face seen from the front works best.`;
  if (name === "Overloaded" || name === "Rate Limit") {
    const wait = data.retry_after_s ? ` Try again in ${Math.ceil(data.retry_after_s)} s.` : " Try again soon.";
    return `The service is busy.${wait}`;
  }
  if (name === "Invalid Request") return "Some settings do not fit. See the marked fields.";
  if (name === "Internal Error" && data.request_id) return `Something went wrong in the service (request ${data.request_id}).`;
  return WORDS[name] ?? sentence(data.message ?? name);
}

/** What is wrong with one field, from its entry in `error_data.fields`. */
export function fieldInWords({ message, accepted = {} }) {
  const rule = [accepted, ...(accepted.anyOf ?? [])].find((kind) => kind.minimum !== undefined && kind.maximum !== undefined);
  if (rule) return `A ${rule.type === "integer" ? "whole number" : "number"} from ${rule.minimum} to ${rule.maximum}.`;
  if (message.startsWith("String should match")) return "Letters, spaces and hyphens only.";
  return sentence(message.replace("String should have", "This should have"));
}

export function sentence(text = "Something went wrong") {
  const start = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

export function seconds(value) {
  if (value >= 60) return `${Math.round(value / 60)} min`;
  return `${value < 10 && !Number.isInteger(value) ? value.toFixed(1) : Math.round(value)} s`;
}

export function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}
