"""Trains the embedded models: `python -m deployments.embedded.training [PART ...]`; without PART, all in order."""

import argparse
from collections.abc import Callable
from pathlib import Path

import torch

from deployments.embedded.training.data.dataset import draw_avatars, draw_large, draw_photos, draw_set
from deployments.embedded.training.data.faces import draw_face_set
from deployments.embedded.training.data.styled import draw_styled_avatars, draw_styled_large
from deployments.embedded.training.data.words import caption_corpus, save_tokenizer, train_tokenizer
from deployments.embedded.training.evaluate import figures
from deployments.embedded.training.evaluate.judge import train_judge
from deployments.embedded.training.train.checkpoint import Length
from deployments.embedded.training.train.decoder import train_decoder
from deployments.embedded.training.train.detector import train_finder
from deployments.embedded.training.train.diffusion import start
from deployments.embedded.training.train.export import DEFAULT_WEIGHTS, export_diffusion, export_onnx
from deployments.embedded.training.train.likeness import train_likeness
from deployments.embedded.training.train.matting import SIDE as MATTING_SIDE
from deployments.embedded.training.train.matting import train_matting
from deployments.embedded.training.train.networks import MattingNet, build_text_encoder, build_vae
from deployments.embedded.training.train.parsers import SIDE
from deployments.embedded.training.train.plan import Plan, run_diffusion, run_face, run_fewstep, run_styles
from deployments.embedded.training.train.preview import fit_preview
from deployments.embedded.training.train.text import train_text_encoder
from deployments.embedded.training.train.verifier import train_verifier
from deployments.face.finder import LOOK_SIDE


def run_data(plan: Plan) -> None:
    """Draws the training sets into `plan.data`; a set that is complete is kept, whatever the plan says."""
    draw_set(plan.data, "photos", draw_photos, plan.seed + 1, plan.faces, plan.workers)
    draw_set(plan.data, "large", draw_large, plan.seed + 2, plan.large, plan.workers)
    draw_set(plan.data, "avatars", draw_avatars, plan.seed + 1, plan.persons, plan.workers)
    if plan.styled:
        draw_set(plan.data, "styled-large", draw_styled_large, plan.seed + 2, plan.large, plan.workers)
        draw_set(plan.data, "styled-avatars", draw_styled_avatars, plan.seed + 1, plan.styled, plan.workers)


def run_tokenizer(plan: Plan) -> None:
    """Trains the tokenizer on 3,000 captions and 300 default prompts, and saves it in `tokenizer/` of the cache."""
    save_tokenizer(train_tokenizer(caption_corpus(3000, plan.seed)), plan.cache / "tokenizer")


def run_likeness(plan: Plan) -> None:
    """Trains the judge of likeness on the face encoder's set, from the checkpoint `likeness.pt` where it exists."""
    length = Length(plan.likeness_steps, plan.likeness_minutes)
    photos, persons = plan.data.array("photos"), plan.data.portraits("photos")
    train_likeness(photos, persons, length, plan.seed, plan.cache / "likeness.pt")


def run_scenes(plan: Plan) -> None:
    """Draws heads, and pastes them into scenes, for the face detector; training may begin before it ends."""
    draw_face_set(plan.faces_in_scenes, plan.scenes, plan.seed + 3, plan.heads, plan.canvases, plan.workers)


def run_finder(plan: Plan) -> None:
    """Trains the finder of faces, from the checkpoint `finder.pt` where it exists."""
    length = Length(plan.finder_steps, plan.finder_minutes)
    train_finder(plan.faces_in_scenes, length, plan.seed, plan.cache / "finder.pt")


def run_verifier(plan: Plan) -> None:
    """Trains the second look at what the finder finds, from the checkpoint `verifier.pt` where it exists."""
    length = Length(plan.verifier_steps, plan.verifier_minutes)
    train_verifier(plan.finder(), plan.faces_in_scenes, length, plan.seed, plan.cache / "verifier.pt")


def run_decoder(plan: Plan) -> None:
    """Trains the autoencoder's decoder on the large pictures, from the weights in `decoder.pt` where it exists."""
    train_decoder(plan.pictures("large")[0], plan.decoder_steps, plan.seed, plan.cache / "decoder.pt")


def run_matting(plan: Plan) -> None:
    """Trains the matting network on the large pictures, from the weights in `matting.pt` where it exists."""
    train_matting(plan.pictures("large")[0], plan.matting_steps, plan.seed, plan.cache / "matting.pt")


def run_text(plan: Plan) -> None:
    """Pretrains the text encoder from scratch and saves `text.pt`, from which a new generator starts."""
    tokenizer = plan.tokenizer()
    encoder = build_text_encoder(len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id)
    train_text_encoder(encoder, tokenizer, plan.text_steps, plan.seed)
    torch.save(encoder.state_dict(), plan.cache / "text.pt")


def run_judge(plan: Plan) -> None:
    """Not shipped: the avatars' benchmark reads pictures with it (`loadtest/bench/avatars/judge.safetensors`)."""
    pictures, sittings = plan.data.array("avatars"), plan.data.portraits("avatars")
    flat = pictures.reshape(-1, *pictures.shape[2:])
    portraits = [sitting for both in sittings for sitting in both]
    train_judge(flat, portraits, plan.judge_steps, plan.seed).save(plan.cache / "judge.safetensors")


def run_export(plan: Plan) -> None:
    """Everything that has a checkpoint; the generator from its running average."""
    if (plan.cache / "face.pt").exists():
        path = plan.weights / "face" / "encoder.onnx"
        export_onnx(plan.face_encoder(), torch.zeros(1, 3, SIDE, SIDE), ("input", "embedding"), path)
    if (plan.cache / "likeness.pt").exists():
        path = plan.weights / "face" / "likeness.onnx"
        export_onnx(plan.likeness(), torch.zeros(1, 3, SIDE, SIDE), ("input", "embedding"), path)
    if (plan.cache / "verifier.pt").exists():
        finder, verifier = plan.weights / "face" / "finder.onnx", plan.weights / "face" / "verifier.onnx"
        export_onnx(plan.finder(), torch.zeros(1, 3, 64, 64), ("picture", "maps"), finder, sides=True)
        export_onnx(plan.verifier(), torch.zeros(1, 3, LOOK_SIDE, LOOK_SIDE), ("crop", "told"), verifier)
    if (plan.cache / "matting.pt").exists():
        matting = MattingNet()
        matting.load_state_dict(torch.load(plan.cache / "matting.pt", weights_only=True))
        path = plan.weights / "matting" / "u2net.onnx"
        export_onnx(matting, torch.zeros(1, 3, MATTING_SIDE, MATTING_SIDE), ("input", "mask"), path)
    if plan.checkpoint.exists():
        average = start(plan.tokenizer(), plan.checkpoint, plan.seed).average
        vae = build_vae()
        vae.load_state_dict(torch.load(plan.cache / "decoder.pt", weights_only=True))
        export_diffusion(average.unet, average.text, plan.tokenizer(), vae, plan.weights / "diffusion")


def run_preview(plan: Plan) -> None:
    """Prints `EMBEDDED` of `deployments/diffusion/model/latent_colours.py` for the exported weights."""
    factors, bias, explained = fit_preview(plan.weights, plan.seed)
    print(f"# explains {explained:.4f} of the variance")
    for name, rows in (("factors", factors), ("bias", bias[None])):
        print(name, *(f"    ({', '.join(f'{value:.3f}' for value in row)})," for row in rows), sep="\n")


def run_samples(plan: Plan) -> None:
    """Draws `samples.png` in the cache with the exported weights."""
    figures.draw_sheet(plan.weights, plan.cache / "samples.png")


def run_card(plan: Plan) -> None:
    """Prints the figures of the exported weights and writes them into their README.md, the model card.

    The card tells of the training what `plan.note` says, or else what plan and checkpoint do.
    """
    measured = figures.measure(plan.weights)
    if plan.figures is not None:
        measured = figures.benchmark_figures(plan.figures) | measured
    if plan.light is not None:
        measured |= figures.light_figures(plan.light)
    print("\n".join(f"{name}: {value}" for name, value in measured.items()))
    progress = start(plan.tokenizer(), plan.checkpoint, plan.seed)
    trained = plan.note or (
        f"{plan.persons} drawn persons; face encoder {plan.face_steps} steps of 48 pictures; decoder "
        f"{plan.decoder_steps} steps; matting {plan.matting_steps} steps; generator {progress.step} steps of "
        f"{plan.batch * plan.workers} pictures in {progress.seconds / 60:.0f} minutes on {plan.workers} CPU cores"
    )
    figures.write_card(plan.weights, trained, measured)


PARTS: dict[str, Callable[[Plan], None]] = {
    "data": run_data,
    "tokenizer": run_tokenizer,
    "face": run_face,
    "likeness": run_likeness,
    "scenes": run_scenes,
    "finder": run_finder,
    "verifier": run_verifier,
    "decoder": run_decoder,
    "matting": run_matting,
    "text": run_text,
    "judge": run_judge,
    "diffusion": run_diffusion,
    "export": run_export,
    "styles": run_styles,
    "fewstep": run_fewstep,
    "preview": run_preview,
    "samples": run_samples,
    "card": run_card,
}


def main() -> None:
    """Runs the parts that the command line names, always in the order of `PARTS`; they share files in the cache."""
    parser = argparse.ArgumentParser(prog="python -m deployments.embedded.training", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all, in this order")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "face-avatar-training")
    parser.add_argument("--weights", type=Path, default=DEFAULT_WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--persons", type=int, default=12_000)
    parser.add_argument("--faces", type=int, default=6000, help="persons whose photos the face encoder sees")
    parser.add_argument("--large", type=int, default=1200)
    parser.add_argument("--face-steps", type=int, default=2400)
    parser.add_argument("--face-minutes", type=float, help="of face encoder training, in place of its steps")
    parser.add_argument("--likeness-steps", type=int, default=2000)
    parser.add_argument("--likeness-minutes", type=float, help="in place of its steps")
    parser.add_argument("--decoder-steps", type=int, default=2900)
    parser.add_argument("--matting-steps", type=int, default=700)
    parser.add_argument("--text-steps", type=int, default=320)
    parser.add_argument("--judge-steps", type=int, default=3000)
    parser.add_argument("--diffusion-steps", type=int, default=4000)
    parser.add_argument("--minutes", type=float, help="of generator training, in place of its steps")
    parser.add_argument("--batch", type=int, default=24)
    parser.add_argument("--from-weights", action="store_true", help="a new generator begins with that of --weights")
    parser.add_argument("--heads", type=int, default=3000, help="persons that the face detector sees")
    parser.add_argument("--canvases", type=int, default=20_000, help="pictures that the face detector sees")
    parser.add_argument("--scenes", type=Path, help="a folder of pictures without people, besides those of packages")
    parser.add_argument("--finder-steps", type=int, default=5000)
    parser.add_argument("--finder-minutes", type=float, help="in place of its steps")
    parser.add_argument("--verifier-steps", type=int, default=4000)
    parser.add_argument("--verifier-minutes", type=float, help="in place of its steps")
    parser.add_argument("--styled", type=int, default=4000, help="persons that are drawn in styles, too; 0: no styles")
    parser.add_argument("--style-steps", type=int, default=600, help="of each style")
    parser.add_argument("--style-minutes", type=float, help="of each style, in place of its steps")
    parser.add_argument("--trajectories", type=int, default=4000, help="pictures that teach to draw in four steps")
    parser.add_argument("--fewstep-steps", type=int, default=1500)
    parser.add_argument(
        "--fewstep-minutes", type=float, help="in place of its steps; the teacher's time is not counted"
    )
    parser.add_argument("--figures", type=Path, help="for the card: what loadtest.bench.avatars wrote with --json")
    parser.add_argument("--light", type=Path, help="for the card: what loadtest.bench.exposure wrote with --json")
    parser.add_argument("--note", help="for the card, in place of its own account of the training")
    asked = vars(parser.parse_args())
    parts = asked.pop("parts") or PARTS
    torch.set_num_threads(asked.pop("threads"))
    torch.set_flush_denormal(True)
    plan = Plan(**asked)
    plan.cache.mkdir(parents=True, exist_ok=True)
    for part, run in PARTS.items():
        if part in parts:
            run(plan)


if __name__ == "__main__":
    main()
