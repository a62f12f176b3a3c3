"""What stands below the help of the program, and of each command: examples, in Markdown."""


def _examples(*lines: str, more: str = "") -> str:
    return "\n".join(["**Examples**", "", *(f"* `{line}`" for line in lines)]) + (f"\n\n{more}" if more else "")


PROGRAM = _examples(
    "it3 doctor",
    "it3 layers networks.py:make_network --shape 2,3,32,32 --suggest",
    "it3 train experiment.toml",
    "it3 adapt engine.pt --input x.npy --output y.npy --set num_steps=1",
    more="Exit codes: 0 done, 1 the work failed, 2 wrong usage, 130 interrupted by Ctrl-C.",
)

_TABLES = """**The configuration** is a TOML file, and paths and modules in it are looked for in its folder:

* `[model]`: `make` (package.module:thing or file.py:thing), `weights` (a file), `device`
* `[data]`: `train`, `validation`, `test`: functions that give batches (inputs, targets)
* `[engine]`: the arguments of it3.IT3Engine, such as `features_layer_name = "0"`; functions by import path
* `[engine.optimization_parameters]`: those of it3.Options
* `[recipe]`: those of it3.TrainingRecipe
* `[training]`: `epochs`, `criterion` (of torch.nn.functional, or an import path), `optimizer` (of torch.optim; Adam),
  `lr` (1e-3), `seed` (0), `output` (engine.pt), `method` (script or trace), `checkpoint` (a file, from
  which training that was ended goes on)
* `[adaptation]`: variants by name, such as `"5 steps" = {num_steps = 5}`
* `[evaluation]`: `metric` (accuracy, mse, mae or an import path), `higher_is_better`; and, as in it3.evaluate,
  `reference` ("train", for the training targets, or an import path), `groups` and `clusters` (a list with an entry for
  each batch, or an import path)
* `[evaluation.repairs]` and `[evaluation.others]`: rows by name, such as `"clipped" = "repairs.py:clip"`
* `[search]`: `budget`, `adaptation_budget`, `seeds`, `seed`, `journal` (a file)
* `[search.space]`: `"training.lr" = {low = 1e-4, high = 1e-2}`, `"engine.features_layer_name" = ["0", "1"]`
* `[search.adaptation]`: options of it3.Options, in the same way
"""

EPILOGS = {
    "doctor": _examples("it3 doctor", "it3 doctor --thorough", "it3 doctor --json"),
    "layers": _examples(
        "it3 layers networks.py:make_network --shape 2,3,32,32 --suggest",
        "it3 layers package.networks:Network --input x.npy --weights weights.pt --explain",
        "it3 layers translate.py:model --shape 8,20 --dtype int64 --shape 8,512 --dtype float32",
    ),
    "info": _examples("it3 info engine.pt", "it3 info engine.pt --json"),
    "adapt": _examples(
        "it3 adapt engine.pt --input x.npy --output y.npy",
        "it3 adapt engine.pt --input x.csv --output y.csv --set num_steps=3 --set lr=1e-4 --batch-size 64",
        "it3 adapt engine.pt --input x.parquet --output y.parquet --set online=true --set betas=0.9,0.99 --progress",
        "it3 adapt engine.pt --input photos --output y.npy --image-mean 0.5,0.4,0.4 --image-std 0.2,0.2,0.2",
        more="Values of --set are none, true, false, numbers or words; several are written with commas. Columns of "
        "tables become the network's kind of numbers, in their order. Images of a folder, all of one size, are sorted "
        "by name. Give the mean and the standard deviation of the network's training: others look like a shift of the "
        "data. it3-adapt, which needs no Python, reads files larger than memory.",
    ),
    "train": _examples("it3 train experiment.toml", more=_TABLES),
    "evaluate": _examples("it3 evaluate experiment.toml", more="See it3 train --help for the configuration."),
    "search": _examples("it3 search experiment.toml --processes 4", more="See it3 train --help for the configuration."),
    "export": _examples(
        "it3 export experiment.toml --format aoti --output engine.pt2",
        "it3 export engine.pt --input x.npy --output adapted.pt",
    ),
    "bench": _examples("it3 bench engine.pt --input x.npy --batch-size 32 --set num_steps=1"),
}
"""By the name of the command."""
