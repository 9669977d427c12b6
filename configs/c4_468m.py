"""The 468M model of the paper on C4, pruned to 80 %.

  python -m jax_sparse_pretrain.train --config=configs/c4_468m.py \\
    --workdir=DIR --config.data.path=TOKENS

Its tokens come from 150 of the 1,024 files of C4, once, on any machine:

  hf download allenai/c4 --repo-type=dataset --local-dir=c4 \\
    --include 'en/c4-train.000*' \\
    --include 'en/c4-train.001[0-4]*' \\
    --include 'en/c4-validation.*'
  python -m jax_sparse_pretrain.prepare 'c4/en/c4-train.*' --out=TOKENS \\
    --validation 'c4/en/c4-validation.*' --tokens=2.2e10 \\
    --train_tokenizer=bpe --vocab_size=32000

The paper's tokenizer is Llama 2's: --tokenizer=tokenizer.model, if you have it.

Add `--plan` to print these numbers and stop:

  Linear parameters     435,421,184  N of the dense model
    average             173,557,941  N_avg, 39.9% of dense
    at the end           87,084,237  20.0% of dense
  All parameters        468,239,360

  Steps                      20,823
    pruned from               2,075  25.0% of compute
    to                       10,425  74.9% of compute
  Tokens             21,834,498,048  D, 1,048,576 a step
  Compute                 2.274e+19  FLOPs, 6 N_avg D
  H100 hours                   49.3  at 40 % of its peak

Hours are model FLOPs / (40 % of a H100's dense bfloat16 peak of 989e12); on n
of them, divide by n. Pruned weights are stored as zeros: they save none of it.

Hyperparameters are the paper's (arXiv 2501.12486); the length is
Chinchilla's 20 tokens a linear parameter and the batch twice that of the 58M
model, since the paper's are not known.
"""

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults


def get_config() -> ConfigDict:
  """What differs from the recipe in `jax_sparse_pretrain/config.py`."""
  config = ConfigDict(defaults())
  config.batch_size = 512  # rows; x 2,048 = 1,048,576 tokens a step
  config.accumulation_steps = 16  # 32 rows at a time: at most 32 devices

  config.model.n_layers = 24
  config.model.d_model = 1024
  config.model.n_heads = 16  # head_dim 64
  config.model.d_ff = 4096  # 4 d_model
  config.model.remat = True  # 24 layers of activations do not fit a chip

  config.mesh.data = 1
  config.mesh.fsdp = -1  # parameters and moments split over all devices

  config.duration.value = 8_300  # dense steps: 20 tokens a linear parameter
  config.optimizer.peak_lr = 1.19e-3  # 0.3118 C^-0.125, C the FLOPs
  config.pruning.sparsity = 0.8
  return config
