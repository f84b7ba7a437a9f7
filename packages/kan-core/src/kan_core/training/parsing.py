"""The options of a training app: LightningCLI's, one flat set for all commands, and a few of our own."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import lightning.pytorch as pl
from jsonargparse import Namespace
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger

from kan_core.errors import KANError
from kan_core.training.task import Task

COMMANDS = ("fit", "validate", "test", "predict", "export")
TWINS = ("params", "flops", "none")
TRAINER_DEFAULTS = {
    "accelerator": "auto",
    "max_epochs": 10,
    "deterministic": True,
    "log_every_n_steps": 10,
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
}
# What the run folder decides; an option that would be ignored is refused instead.
FIXED = {
    "default_root_dir": (None, "--output and --name say where a run is written"),
    "enable_checkpointing": (None, "a run always writes checkpoints"),
}

Link = tuple[str, str] | tuple[str, str, str]


def split_command(args: Sequence[str], more: Sequence[str] = ()) -> tuple[str | None, list[str]]:
    """The command, if the first word is one, and the options.

    Args:
        args: The command line without the program's name.
        more: Commands of the app alone, for the message.

    Raises:
        KANError: When the first word is neither a command nor an option.
    """
    if not args or args[0].startswith("-"):
        return None, list(args)
    if args[0] not in COMMANDS:
        raise KANError(f"unknown command {args[0]!r}: use {', '.join([*COMMANDS, *more])}, or none to train and test")
    return args[0], list(args[1:])


def configuration_of_checkpoint(options: Sequence[str]) -> list[str]:
    """``--config`` of the run that ``--ckpt_path`` lies in, unless the options name a configuration themselves."""
    checkpoint = option_value(options, "--ckpt_path")
    if not checkpoint or option_value(options, "--config") is not None:
        return []
    config = Path(checkpoint).absolute().parent.parent / "config.yaml"
    return ["--config", str(config)] if config.is_file() else []


def option_value(options: Sequence[str], name: str) -> str | None:
    """The value that was given last to the option `name`, as ``--x y`` or ``--x=y``; None when it was not given."""
    found = None
    for at, option in enumerate(options):
        key, given, value = option.partition("=")
        if key == name:
            found = value if given else next(iter(options[at + 1 :]), "")
    return found


class AppCLI(LightningCLI):
    """Parses one flat configuration, seeds, and instantiates the task and the datamodule, but no trainer.

    Without LightningCLI's subcommands the saved config.yaml serves every command, and no checkpoint changes options.
    """

    def __init__(
        self,
        task: type[Task],
        data: type[pl.LightningDataModule],
        *,
        app: str,
        defaults: Path | str,
        links: Sequence[Link],
        more: Sequence[str],
        args: Sequence[str],
    ) -> None:
        self._links = links
        other = f" {', '.join(more)} --help: commands with options of their own." if more else ""
        super().__init__(
            task,
            data,
            subclass_mode_model=True,
            subclass_mode_data=True,
            run=False,
            save_config_callback=None,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,  # hyper-parameters are plain values, stored as the task received them
            seed_everything_default=0,
            trainer_defaults=dict(TRAINER_DEFAULTS),
            parser_kwargs={
                "default_config_files": [str(defaults)],
                "exit_on_error": False,
                "allow_abbrev": False,
                "description": f"Train and test a KAN and its matched twin ({app}). The first word may be "
                f"{', '.join(COMMANDS)}; without one: fit, then test. Results go to OUTPUT/{app}/NAME.{other}",
            },
            args=list(args),
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Our own options and the app's links."""
        parser.add_argument(
            "--name", type=str | None, default=None, help="Name of the run; made of data and model if null."
        )
        parser.add_argument("--output", type=str, default="outputs", help="Folder above all runs.")
        parser.add_argument(
            "--ckpt_path",
            type=str | None,
            default=None,
            help="Checkpoint to resume (fit, or no command) or to evaluate (default there: best.ckpt of the run).",
        )
        parser.add_argument(
            "--twin",
            type=str,
            default="params",
            help="Also train a model without KAN layers, of equal parameters (params) or FLOPs (flops), or not (none).",
        )
        parser.add_argument("--debug", action="store_true", help="Show the traceback of an error.")
        for link in self._links:
            parser.link_arguments(link[0], link[1], apply_on=link[2] if len(link) > 2 else "parse")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """As the base class, which also warns when Python calls it with arguments; and check what no type checks."""
        self.config = parser.parse_args(cast(list[str], args))
        if self.config.twin not in TWINS:
            raise KANError(f"--twin {self.config.twin}: use {', '.join(TWINS)}")
        for key, (unset, reason) in FIXED.items():
            if self.config.trainer.get(key) is not unset:
                raise KANError(f"--trainer.{key} cannot be set: {reason}")
        if self.config.trainer.get("logger") is False:
            raise KANError("--trainer.logger false cannot be set: a run always writes metrics.csv")
        if self.config.trainer.get("limit_val_batches") == 0:
            raise KANError("--trainer.limit_val_batches 0 cannot be set: the best epoch is chosen on validation data")
        for key in ("model", "data"):
            if not self.config.get(key):
                raise KANError(f"--{key} is missing: give a class, as in the default configuration")

    def instantiate_classes(self) -> None:
        """As the base class, but an exception of a constructor arrives as it was raised.

        jsonargparse tries a value as every type it may have, and makes one ValueError of all that happened on the way.
        """
        failures: list[Exception] = []

        def construct(kind: type[Any], *args: Any, **kwargs: Any) -> Any:
            try:
                return kind(*args, **kwargs)
            except Exception as error:
                failures.append(error)
                raise

        for base in (pl.LightningModule, pl.LightningDataModule, pl.Callback, Logger):
            self.parser.add_instantiator(construct, base, subclasses=True)
        try:
            super().instantiate_classes()
        except Exception as error:
            raise (failures[0] if failures else error) from None

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """None: a run makes several trainers, when its folder is known."""
        return None

    def config_yaml(self) -> str:
        """The resolved configuration that repeats this run, without what concerns this call only."""
        config = self.config.clone()
        for key in ("config", "ckpt_path", "debug"):
            config.pop(key, None)
        return str(self.parser.dump(config, skip_none=False))

    def trainer_options(self) -> dict[str, Any]:
        """The keyword arguments of the trainer, its configured callbacks, loggers and plugins instantiated."""
        options = self.config_init["trainer"]
        return dict(options.items()) if isinstance(options, Namespace | Mapping) else {}


def one_line(message: str) -> str:
    """What a message of jsonargparse says, on one line: the option, what is wrong, what to do."""
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message)
    keys = [key for key in re.findall(r'[Pp]arser key "([^"]+)"', message) if key != "init_args"]
    option = "--" + ".".join(dict.fromkeys(keys)) if keys else "--config"
    unknown = re.search(r"unrecognized arguments: ([^\s=]+)", message)
    if unknown:
        return f"unknown option {unknown[1]}: --help lists the options"
    group = re.search(r"Group '([^']+)' does not accept option '([^']+)'", message)
    if group:
        return f"unknown option --{group[1]}.{group[2]}: --help lists the options"
    refused = re.search(r"Option '([^']+)' is not accepted", message)
    if refused:
        owner = re.search(r"class_path '(?:\w+\.)*(\w+)'", message)
        return (
            f"unknown option {option}.{refused[1]}: {owner[1] if owner else option} has none; {option}.help lists them"
        )
    value = re.search(r"Got value: (.*)|val='(.*)'\)|Given value: (.*)", message)
    given = next((text for text in value.groups() if text is not None), "") if value else ""
    if "dot import path" in message:
        return f"{option}: unknown class {given}; give the name of a class, after importing it, or its dotted path"
    expected = dict.fromkeys(re.findall(r"Expected an? (.+?)(?:\. Got value: .*)?$", message, flags=re.MULTILINE))
    kinds = [kind.removeprefix("typing.") for kind in expected if kind != "NoneType"]
    if kinds:
        return f"{option}: expected {' or '.join(kinds)}, got {given}"
    missing = re.search(r"File does not exist: '(.*)'", message)
    if missing:
        return f"{option} {missing[1]}: there is no such file"
    noise = (
        "Does not validate",
        "Subtypes:",
        "Errors:",
        "Given value",
        "Problem with given",
        "Parser key",
        "Expected a",
    )
    lines = [line.strip(" -") for line in message.splitlines()]
    reasons = dict.fromkeys(line for line in lines if line and not line.startswith(noise))
    return f"{option}: {'; '.join(reasons)}; --help lists the options"
