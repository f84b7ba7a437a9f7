"""What is published: the content of the wheels, and that each installs and works in a clean environment."""

from __future__ import annotations

import email
import email.message
import re
import sysconfig
import zipfile
from importlib.metadata import distributions
from pathlib import Path

import pytest

from .conftest import NO_UV, UV, run, run_uv

pytestmark = pytest.mark.slow

PACKAGES = {
    "kan_core": "kan-core",
    "kan_vision": "kan-vision",
    "kan_audio": "kan-audio",
    "kan_tabular": "kan-tabular",
    "kan_timeseries": "kan-timeseries",
}

USE_CORE = """
import torch
from kan_core import KAN, KANConv2d, KANLinear, bases
from kan_core.compare import match_mlp

for name in bases.names():
    layer = KANLinear(4, 3, basis=name)
    loss = layer(torch.randn(5, 4)).square().mean()
    loss.backward()
    assert torch.isfinite(layer.weight.grad).all(), name
    assert KANConv2d(2, 3, 3, basis=name)(torch.randn(1, 2, 6, 6)).shape == (1, 3, 4, 4)
assert abs(match_mlp(KAN([10, 16, 2])).residual) <= 0.05

try:
    import kan_core.training
except ModuleNotFoundError as error:
    assert "kan-core[lightning]" in str(error), error
else:
    raise AssertionError("kan_core.training cannot work without lightning, and must say what to install")
"""

USE_VISION = """
import kan_core, kan_vision, timm, torch
from pathlib import Path

assert "site-packages" in Path(kan_core.__file__).parts, kan_core.__file__
model = timm.create_model("kan_mlp_small", num_classes=10, in_chans=1, img_size=8)
assert model(torch.randn(2, 1, 8, 8)).shape == (2, 10)
"""

# FFmpeg is hidden: PATH leads to nothing but the environment
USE_AUDIO = """
import importlib.util, shutil, sys, torch, torchaudio
from pathlib import Path
import kan_audio
from kan_audio import models
from kan_audio.data.audio import read_audio, write_audio

assert "site-packages" in Path(kan_audio.__file__).parts, kan_audio.__file__
assert importlib.util.find_spec("torchcodec") is None
assert shutil.which("ffmpeg") is None
assert torch.__version__.split(".")[:2] == torchaudio.__version__.split(".")[:2]
for suffix in ("wav", "flac"):
    write_audio(Path(f"tone.{suffix}"), torch.linspace(-0.5, 0.5, 8000), 8000)
    wave = read_audio(Path(f"tone.{suffix}"), 16_000)
    assert wave.shape == (16_000,)
assert models.create("aasist_l")(wave[None]).shape == (1, 2)
"""

USE_TABULAR = """
import importlib.util, kan_tabular, numpy as np, pandas as pd
from pathlib import Path
from kan_tabular import KANClassifier, KANRegressor

assert "site-packages" in Path(kan_tabular.__file__).parts, kan_tabular.__file__
for other in ("timm", "torchvision", "torchaudio", "pyarrow"):
    assert importlib.util.find_spec(other) is None, other
rng = np.random.default_rng(0)
X = pd.DataFrame({"x": rng.normal(size=80), "c": rng.choice(["a", "b"], 80)})
y = X["x"] + (X["c"] == "a")
model = KANRegressor(random_state=0).fit(X, y)
assert model.score(X, y) > 0.9, model.score(X, y)
model.save("model")
assert (KANRegressor.load("model").predict(X) == model.predict(X)).all()
assert KANClassifier(random_state=0).fit(X, y > 0.5).score(X, y > 0.5) > 0.8
"""

USE_TIMESERIES = """
import importlib.util, kan_timeseries, numpy as np, pandas as pd
from pathlib import Path
from kan_timeseries import KANForecaster

assert "site-packages" in Path(kan_timeseries.__file__).parts, kan_timeseries.__file__
for other in ("timm", "torchvision", "torchaudio", "pyarrow"):
    assert importlib.util.find_spec(other) is None, other
ds = pd.date_range("2024-01-01", periods=240, freq="h")
waves = {"a": np.sin(np.arange(240) / 4), "b": np.cos(np.arange(240) / 4)}
df = pd.concat([pd.DataFrame({"unique_id": name, "ds": ds, "y": y}) for name, y in waves.items()])
model = KANForecaster(h=6, input_size=24, max_steps=20).fit(df)
found = model.predict()
assert list(found.columns[:2]) == ["unique_id", "ds"] and len(found) == 12
model.save("model")
assert KANForecaster.load("model").predict().equals(found)
table = model.cross_validation(df, n_windows=2, step_size=6)
assert {"unique_id", "ds", "cutoff", "y"} <= set(table.columns) and len(table) == 24
"""


def metadata(wheel: Path) -> email.message.Message:
    """The wheel's METADATA."""
    with zipfile.ZipFile(wheel) as archive:
        [name] = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(archive.read(name))


def requirements(wheel: Path) -> dict[str, set[str]]:
    """Names of the required distributions by extra; the empty string stands for no extra."""
    found: dict[str, set[str]] = {}
    for line in metadata(wheel).get_all("Requires-Dist", []):
        extra = re.search(r"extra == '([^']+)'", line)
        name = re.match(r"[\w.-]+", line)
        assert name
        found.setdefault(extra[1] if extra else "", set()).add(name[0].lower())
    return found


class TestContents:
    @pytest.mark.parametrize("package", PACKAGES)
    def test_every_file_of_the_package_and_nothing_else(self, wheel, package, repository):
        source = repository / "packages" / PACKAGES[package] / "src"
        wanted = {
            path.relative_to(source).as_posix()
            for path in (source / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts and not path.name.startswith(".")
        }
        with zipfile.ZipFile(wheel(package)) as archive:
            names = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert names == wanted
        assert f"{package}/py.typed" in names
        assert not any("test" in Path(name).parts[-1] for name in names)

    @pytest.mark.parametrize("package", PACKAGES)
    def test_licence_and_readme_go_along(self, wheel, package):
        about = metadata(wheel(package))
        assert about["License-Expression"] == "Apache-2.0"
        assert about.get_all("License-File") == ["LICENSE"]
        assert about["Requires-Python"] == ">=3.11"
        assert f"# {PACKAGES[package]}" in str(about.get_payload())
        with zipfile.ZipFile(wheel(package)) as archive:
            assert any(name.endswith(".dist-info/licenses/LICENSE") for name in archive.namelist())

    def test_kan_core_needs_torch_and_numpy_and_no_more(self, wheel):
        required = requirements(wheel("kan_core"))
        assert required[""] == {"torch", "numpy"}
        assert set(required) == {"", "lightning", "export"}
        assert required["export"] == {"onnx", "onnxscript", "onnxruntime"}
        assert {"lightning", "jsonargparse", "matplotlib"} <= required["lightning"]

    @pytest.mark.parametrize(
        ("domain", "own"),
        [
            ("kan_vision", "timm"),
            ("kan_audio", "torchaudio"),
            ("kan_tabular", "pandas"),
            ("kan_timeseries", "statsmodels"),
        ],
    )
    def test_a_domain_needs_kan_core_by_version_and_no_other_domain(self, wheel, domain, own):
        required = requirements(wheel(domain))[""]
        assert {"kan-core", "torch", own} <= required
        assert not {name for name in required if name.startswith("kan-")} - {"kan-core"}
        assert not required & {"timm", "torchaudio", "torchcodec", "transformers"} - {own}
        lines = metadata(wheel(domain)).get_all("Requires-Dist", [])
        assert not any("@" in line or "file:" in line for line in lines), "a path of this machine is in the metadata"

    def test_kan_audio_holds_torch_and_torchaudio_to_releases_that_belong_together(self, wheel):
        lines = [line.replace(" ", "") for line in metadata(wheel("kan_audio")).get_all("Requires-Dist", [])]
        assert {"torch<2.12,>=2.11", "torchaudio<2.12,>=2.11"} <= set(lines)


def bring_bytecode(environment: Path) -> None:
    """Link what this environment has compiled of the same files: Python takes it if their time and size agree.

    To compile torch and what is imported beside it takes a process longer than all that a test does.
    """
    here = Path(sysconfig.get_path("purelib"))
    there = Path(sysconfig.get_path("purelib", vars={"base": str(environment), "platbase": str(environment)}))
    assert there.is_dir(), there
    for compiled in here.rglob("*.pyc"):
        link = there / compiled.relative_to(here)
        source = link.parent.parent / f"{link.name.partition('.')[0]}.py"
        if source.is_file() and not link.exists():
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(compiled)


@pytest.fixture(scope="class")
def environment(tmp_path_factory):
    """`environment(wheel, ...)` is the interpreter of a new environment with these wheels and what they require."""
    if UV is None:
        pytest.skip(NO_UV)
    constraints = tmp_path_factory.mktemp("pins") / "constraints.txt"

    def make(*arguments: str | Path) -> Path:
        folder = tmp_path_factory.mktemp("clean")
        run_uv("venv", folder / "venv", cwd=folder)
        python = folder / "venv" / ("Scripts" if (folder / "venv" / "Scripts").is_dir() else "bin") / "python"
        # the versions that this suite runs with: they are in uv's cache, so that nothing is downloaded twice
        run_uv("pip", "install", "--python", python, "--constraints", constraints, *arguments, cwd=folder)
        bring_bytecode(folder / "venv")
        return python

    # of this environment alone: setuptools, once imported, puts the distributions that it vendors on sys.path
    installed = distributions(path=[sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    pins = {f"{d.name}=={d.version}\n" for d in installed if d.name not in PACKAGES.values()}
    constraints.write_text("".join(sorted(pins)))
    return make


class TestCleanEnvironment:
    def test_kan_core_alone_works_without_lightning_and_triton(self, wheel, environment, tmp_path):
        python = environment(wheel("kan_core"))
        # torch brings triton on Linux only; elsewhere there is none, and here there is none from now on
        run_uv("pip", "uninstall", "--python", python, "triton", cwd=tmp_path)
        listed = run([UV, "pip", "list", "--python", python], tmp_path).stdout
        assert "kan-core" in listed
        assert not re.search(r"^(triton|lightning|jsonargparse|timm|matplotlib)\s", listed, re.MULTILINE), listed
        result = run([python, "-c", USE_CORE], tmp_path)
        assert result.returncode == 0, result.stderr

    def test_kan_vision_finds_kan_core_beside_it(self, wheel, wheels, environment, tmp_path):
        python = environment("--find-links", wheels, wheel("kan_vision"))
        result = run([python, "-c", USE_VISION], tmp_path)
        assert result.returncode == 0, result.stderr
        command = python.with_name("kan-vision")
        result = run([command, "--print_config"], tmp_path)
        assert result.returncode == 0, result.stderr
        assert "kan_vision.data.Digits" in result.stdout

    def test_kan_audio_works_without_ffmpeg_and_torchcodec(self, wheel, wheels, environment, tmp_path):
        python = environment("--find-links", wheels, wheel("kan_audio"))
        result = run([python, "-c", USE_AUDIO], tmp_path, PATH=str(python.parent))
        assert result.returncode == 0, result.stderr
        result = run([python.with_name("kan-audio"), "--print_config"], tmp_path)
        assert result.returncode == 0, result.stderr
        assert "kan_audio.data.ResynthesisedSpoof" in result.stdout

    def test_kan_tabular_fits_without_the_libraries_of_other_domains(self, wheel, wheels, environment, tmp_path):
        python = environment("--find-links", wheels, wheel("kan_tabular"))
        result = run([python, "-c", USE_TABULAR], tmp_path)
        assert result.returncode == 0, result.stderr
        result = run([python.with_name("kan-tabular"), "--print_config"], tmp_path)
        assert result.returncode == 0, result.stderr
        assert "kan_tabular.data.TableData" in result.stdout

    def test_kan_timeseries_forecasts_without_the_libraries_of_other_domains(
        self, wheel, wheels, environment, tmp_path
    ):
        python = environment("--find-links", wheels, wheel("kan_timeseries"))
        result = run([python, "-c", USE_TIMESERIES], tmp_path)
        assert result.returncode == 0, result.stderr
        result = run([python.with_name("kan-timeseries"), "--print_config"], tmp_path)
        assert result.returncode == 0, result.stderr
        assert "kan_timeseries.data.ForecastData" in result.stdout
