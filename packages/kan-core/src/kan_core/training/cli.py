"""The command line of every app: one call, ``run(Task, DataModule, app=..., defaults=...)``."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import lightning.pytorch as pl

from kan_core.training.console import USER_ERRORS, quiet, report_error
from kan_core.training.experiment import Experiment
from kan_core.training.parsing import AppCLI, Link, configuration_of_checkpoint, split_command
from kan_core.training.run_folder import is_rank_zero
from kan_core.training.task import Task


def run(
    task: type[Task],
    data: type[pl.LightningDataModule],
    *,
    app: str,
    defaults: Path | str,
    args: Sequence[str] | None = None,
    links: Sequence[Link] = (),
    commands: Mapping[str, Callable[[Sequence[str]], None]] | None = None,
) -> int:
    """Run a training app; ``apps/train_x.py`` is ``sys.exit(main())`` around this.

    The first word may be ``fit``, ``validate``, ``test``, ``predict`` or ``export``; without one the task is trained
    and tested, and so is its twin. Everything else is an option of one flat configuration, the same for all commands.
    The evaluating commands, given ``--ckpt_path`` of a run and no ``--config``, start from that run's configuration.

    Args:
        task: Base of the tasks that ``--model`` may name.
        data: Base of the datamodules that ``--data`` may name. Its ``name`` is the data set's name in reports.
        app: Folder of this app under ``--output``.
        defaults: YAML file with the default configuration; it names the classes ``model.class_path`` and
            ``data.class_path``. Options and ``--config`` files are laid over it.
        args: The command line without the program's name; ``None``: that of this process.
        links: Arguments of jsonargparse's ``link_arguments``: source, target, and optionally when (``"parse"``, the
            default, or ``"instantiate"``), such as ``("data.num_classes", "model.init_args.num_classes",
            "instantiate")``.
        commands: More first words, of this app alone, and what each does with the rest of the command line; a mistake
            in that is a `KANError` as anywhere.

    Returns:
        The exit code: 0; 2 after a mistake of the user, told in one line on stderr; 130 after Ctrl-C. Any other
        exception is a bug and passes through.
    """
    words = list(sys.argv[1:] if args is None else args)
    experiment: Experiment | None = None
    with quiet():
        try:
            if commands and words and words[0] in commands:
                commands[words[0]](words[1:])
                return 0
            command, options = split_command(words, more=tuple(commands or ()))
            if command not in (None, "fit"):  # training goes on with the options that it was started with
                options = [*configuration_of_checkpoint(options), *options]
            cli = AppCLI(task, data, app=app, defaults=defaults, links=links, more=tuple(commands or ()), args=options)
            experiment = Experiment(cli, app)
            experiment.run(command)
        except SystemExit as exit_request:  # --help and --print_config
            return exit_request.code if isinstance(exit_request.code, int) else 0
        except USER_ERRORS as error:
            if is_rank_zero():
                report_error(error, debug="--debug" in words)
            return 2
        except KeyboardInterrupt:
            if is_rank_zero():
                print(
                    f"interrupted: {experiment.how_to_resume() if experiment else 'nothing was started'}",
                    file=sys.stderr,
                )
            return 130
    return 0
