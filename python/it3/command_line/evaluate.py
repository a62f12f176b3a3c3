"""``it3 evaluate``: does adapting help, on the data of a configuration?"""

import typer

import it3
from it3.command_line.configuration import read_configuration
from it3.command_line.configured import batches_from, metric_from, trained_engine, variants_from
from it3.command_line.evaluation_arguments import evaluation_arguments
from it3.command_line.printing import AsJson, print_json, work_is_quiet
from it3.command_line.train import Config


def evaluate(config: Config, as_json: AsJson = False) -> None:
    """Compare the variants in [adaptation] with what a gain has to beat, on the test data."""
    configuration = read_configuration(config)
    variants = variants_from(configuration)
    with work_is_quiet():
        metric = metric_from(configuration)
        engine = trained_engine(configuration)
        arguments = evaluation_arguments(configuration, engine)
        batches = batches_from(configuration, "test", engine)
        evaluation = it3.evaluate(engine, batches, metric, variants, **arguments)
    if as_json:
        rows = evaluation.rows
        print_json({"rows": rows, "best_control": evaluation.best_control, "verdict": evaluation.verdict})
    else:
        typer.echo(str(evaluation))
