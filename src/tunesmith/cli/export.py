"""`tunesmith export`: weights that other programs load."""

import click

from tunesmith import api
from tunesmith.cli.output import json_option, print_json

_MADE = {
    "merged": "Merged model, checked against base + adapter: {path}",
    "gguf": "GGUF file, made from the checked merge: {path}",
    "ollama": "Ollama folder: {path}\nCreate the model: ollama create NAME -f {path}/Modelfile",
    "adapter": "Adapter, tokenizer and card: {path}",
}


@click.command("export")
@click.argument("run")
@click.option("--to", type=click.Choice(list(_MADE)), default="merged", show_default=True, help="What to make.")
@click.option("--output", help="Folder to write; default: RUN/merged, RUN/gguf, RUN/ollama or RUN/peft.")
@click.option("--max-shard-size", default="5GB", show_default=True, help="merged: size of one safetensors file.")
@click.option(
    "--outtype",
    type=click.Choice(["f16", "bf16", "q8_0"]),
    default="f16",
    show_default=True,
    help="gguf, ollama: type of the matrices.",
)
@json_option
def command(run: str, to: str, output: str | None, max_shard_size: str, outtype: str, as_json: bool) -> None:
    """Turn a run into weights that other programs load.

    \b
    merged   the adapter merged into its base, as safetensors; logits checked
    gguf     one file for llama.cpp and the programs built on it
    ollama   that file with a Modelfile
    adapter  the adapter alone, as PEFT and the hub want it

    \b
    Example:  tunesmith export runs/tickets --to gguf --outtype q8_0
    """
    path = api.export(run, to=to, output=output, max_shard_size=max_shard_size, outtype=outtype)
    if as_json:
        print_json({"to": to, "path": str(path)})
    else:
        click.echo(_MADE[to].format(path=path))
