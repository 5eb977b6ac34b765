"""A run's metrics where its owner wants to see them, too: TensorBoard, W&B, trackio."""

import json

from labkit import LabError


class Reporting:
    """A listener that hands what a run logs to TensorBoard, W&B, trackio, … by transformers' own
    callbacks: a TRL trainer's `report_to`, for our own loops, too. Their names (train/loss), their
    environment variables (WANDB_PROJECT, TENSORBOARD_LOGGING_DIR) hold.

    names: the integrations, with commas between. LabError for one that is unknown or not installed.
    """

    def __init__(self, run, names: str, device):
        from transformers import TrainerControl, TrainerState, TrainingArguments
        from transformers.integrations import get_reporting_integration_callbacks

        try:
            kinds = get_reporting_integration_callbacks([one.strip() for one in names.split(",")])
            self.callbacks = [kind() for kind in kinds]
        except (ValueError, RuntimeError, ImportError) as error:
            raise LabError(
                f"report_to is {names!r}, which can't be used here ({error}). Install it"
                " (pip install tensorboard, wandb or trackio), or set report_to to none."
            ) from error
        arguments = TrainingArguments(
            str(run.path), run_name=run.name, report_to="none", use_cpu=device.type == "cpu"
        )
        self.state, self.given = TrainerState(), (arguments, TrainerControl())
        self.model = Settings(run.info["config"])
        self._tell("on_train_begin")

    def _tell(self, event: str, **more):
        arguments, control = self.given
        for one in self.callbacks:
            getattr(one, event)(arguments, self.state, control, model=self.model, **more)

    def __call__(self, values: dict):
        self.state.global_step = values.get("step", self.state.global_step)
        logs = {key: value for key, value in values.items() if key not in ("step", "steps")}
        self._tell("on_log", logs=logs)

    def finish(self):
        self._tell("on_train_end")


class Settings(dict):
    """A run's settings in the shape of a model and its config, which integrations show."""

    @property
    def config(self):
        return self

    def to_json_string(self) -> str:
        return json.dumps(self, indent=1)
