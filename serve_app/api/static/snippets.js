// The request on the page as a curl command and as a Python program.

export function curlOf(parameters, photoNames) {
  const fields = Object.entries(parameters).map(([name, value]) => `    --form-string ${shell(`${name}=${value}`)}`);
  return [
    `curl -s ${location.origin}/getImageToImage`,
    '    -H "Authorization: Bearer $TOKEN"',
    ...photoNames.map((name) => `    -F ${shell(`file=@"${name.replace(/["\\]/g, "\\$&")}"`)}`),
    ...fields,
  ].join(" \\\n");
}

export function pythonOf(parameters, photoNames) {
  const given = Object.entries(parameters).map(([name, value]) => `        ${name}=${python(value)},\n`).join("");
  const paths = photoNames.map((name) => `Path(${python(name)})`).join(", ");
  const ending = { jpeg: "jpg", webp: "webp" }[parameters.output_format] ?? "png";
  return `import os
from pathlib import Path

from serve_app.client import FaceAvatarClient

with FaceAvatarClient(${python(location.origin)}, os.environ["TOKEN"]) as client:
    task = client.avatars.create(
        ${photoNames.length > 1 ? `[${paths}]` : paths},
${given}    ).require_success()
    for index, image in enumerate(task.images):
        if image.url:
            Path(f"avatar-{index}.${ending}").write_bytes(client.avatars.download(image))
`;
}

function shell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

function python(value) {
  return typeof value === "boolean" ? (value ? "True" : "False") : JSON.stringify(value);
}
