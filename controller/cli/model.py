"""``fleetctl model``: from a YOLO model to a release, and what is worth knowing on the way."""

import click

from controller.cli.building import build
from controller.cli.checking import check
from controller.cli.comparing import bench
from controller.cli.evaluating import evaluate
from controller.cli.importing import import_folder
from controller.cli.predicting import predict


@click.group()
def model() -> None:
    """Turn a YOLO model into a release."""


model.add_command(bench)
model.add_command(build)
model.add_command(check)
model.add_command(evaluate)
model.add_command(import_folder)
model.add_command(predict)
