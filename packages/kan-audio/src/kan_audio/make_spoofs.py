"""``kan-audio spoof SPEECH... OUT``: a set of spoofs from your own speech, to train and test with."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from kan_audio.commands import CommandParser
from kan_audio.data.attacks import ATTACKS, make_spoof_set
from kan_audio.data.folders import unlabelled
from kan_audio.data.utterances import BONAFIDE, Utterance


def command(args: Sequence[str]) -> None:
    """Write bona fide copies and spoofs of all recordings.

    Args:
        args: The words after ``spoof``.

    Raises:
        KANError: For a mistake in them; see `kan_audio.data.attacks.make_spoof_set`.
    """
    options = _parser().parse_args(args)
    utterances = [bonafide(found) for found in unlabelled(options.speech)]
    attacks = [attack.strip() for attack in options.attacks.split(",")]
    out = make_spoof_set(
        utterances, options.out, attacks, options.sample_rate, options.seed, options.per_utterance, f".{options.format}"
    )
    made = len(utterances) * (options.per_utterance or len(attacks))
    print(
        f"{len(utterances)} bona fide copies and {made} spoofs are in {out}; {out / 'protocol.txt'} says which is which"
    )


def bonafide(utterance: Utterance) -> Utterance:
    """A recording as bona fide speech, named after its file and spoken by whom its folder is named after."""
    path = Path(utterance.id)
    return dataclasses.replace(utterance, id=path.stem, labels={"key": BONAFIDE}, speaker=path.parent.name or None)


def _parser() -> CommandParser:
    parser = CommandParser(
        prog="kan-audio spoof",
        description="Make a spoofing set from bona fide speech: every recording as a copy and resynthesised by "
        "attacks, all through the same resampling, rounding and level, with a protocol file as in ASVspoof 2019 LA. "
        "The attacks are " + "; ".join(f"{key} {attack.name}" for key, attack in ATTACKS.items()) + ".",
    )
    parser.add_argument(
        "speech", nargs="+", help="files, and folders of files; a file's folder is its speaker, its stem its name"
    )
    parser.add_argument("out", type=Path, help="the folder to write, new or empty")
    parser.add_argument("--attacks", default=",".join(ATTACKS), help="ids with commas between (%(default)s)")
    parser.add_argument("--per-utterance", type=int, help="how many of them each recording goes through (all)")
    parser.add_argument("--sample-rate", type=int, default=16_000, help="of the set, in Hz (%(default)s)")
    parser.add_argument("--format", choices=("flac", "wav"), default="flac", help="of the files (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="for what the attacks draw (%(default)s)")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser
