"""DVC's and MLflow's side of store_peers.py: runs in an environment that has them, not ours.

Reads one verb a line (`add`, `again`, `fetch`, `fresh`) and answers each with its seconds. What is
timed is the library's own call; start-up and imports are not.

    registry_peer.py dvc|mlflow FOLDER CHECKPOINT
"""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

Verbs = dict[str, Callable[[], object]]


def dvc(folder: Path, checkpoint: Path) -> tuple[Verbs, Callable[[], None]]:
    """`dvc add` into its cache, `dvc checkout` out of it; its default way to link files."""
    from dvc.repo import Repo

    os.environ["DVC_NO_ANALYTICS"] = "1"
    held: dict[str, Repo] = {}
    place = folder / "repo"
    data = place / "checkpoint"

    def fresh() -> None:
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        shutil.copytree(checkpoint, data)
        os.chdir(place)
        held["repo"] = Repo.init(str(place), no_scm=True)

    def again() -> None:
        for path in data.iterdir():  # as a new run leaves it: the same bytes, other times
            os.utime(path)
        timed_again()

    def timed_again() -> None:
        held["repo"].add(str(data))

    def fetch() -> None:
        held["repo"].checkout(str(data) + ".dvc", force=True)

    def before_fetch() -> None:
        shutil.rmtree(data)

    verbs: Verbs = {
        "add": lambda: held["repo"].add(str(data)),
        "again": again,
        "before_fetch": before_fetch,
        "fetch": fetch,
    }
    return verbs, fresh


def mlflow(folder: Path, checkpoint: Path) -> tuple[Verbs, Callable[[], None]]:
    """`log_artifacts` and a model version of it in a SQLite registry; `download_artifacts`."""
    import mlflow
    from mlflow.tracking import MlflowClient

    held: dict[str, MlflowClient] = {}
    count = itertools.count()  # a path of its own each time: it keeps its connections by path

    def fresh() -> None:
        for old in folder.glob("server-*"):
            shutil.rmtree(old)
        place = folder / f"server-{next(count)}"
        place.mkdir()
        uri = f"sqlite:///{place}/registry.db"
        mlflow.set_tracking_uri(uri)
        mlflow.set_registry_uri(uri)
        mlflow.create_experiment("synthetic", artifact_location=str(place / "artifacts"))
        mlflow.set_experiment("synthetic")
        held["client"] = MlflowClient(uri, uri)
        held["client"].create_registered_model("synthetic")

    def add() -> None:
        with mlflow.start_run() as run:
            mlflow.log_artifacts(str(checkpoint), "model")
            uri = f"{run.info.artifact_uri}/model"
            held["client"].create_model_version("synthetic", uri, run.info.run_id)

    def fetch() -> None:
        mlflow.artifacts.download_artifacts(
            artifact_uri="models:/synthetic/1", dst_path=str(folder / "fetched")
        )

    def before_fetch() -> None:
        shutil.rmtree(folder / "fetched", ignore_errors=True)
        (folder / "fetched").mkdir()

    return {"add": add, "again": add, "before_fetch": before_fetch, "fetch": fetch}, fresh


def main() -> None:
    name, folder, checkpoint = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the libraries print is no answer
    verbs, fresh = {"dvc": dvc, "mlflow": mlflow}[name](folder, checkpoint)
    verbs["fresh"] = fresh
    answers.write("ready\n")
    for word in sys.stdin:
        verb = word.strip()
        if verb == "fetch":
            verbs["before_fetch"]()
        os.sync()
        began = time.perf_counter()
        verbs[verb]()
        returned = time.perf_counter() - began
        os.sync()
        answers.write(f"{returned} {time.perf_counter() - began}\n")


if __name__ == "__main__":
    main()
