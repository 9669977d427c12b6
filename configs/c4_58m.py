"""The 58M model of the paper on C4, pruned to 80 %.

  python -m jax_sparse_pretrain.train --config=configs/c4_58m.py \\
    --workdir=DIR --config.data.path=TOKENS

Its tokens come from 14 of the 1,024 files of C4, once, on any machine:

  hf download allenai/c4 --repo-type=dataset --local-dir=c4 \\
    --include 'en/c4-train.0000*' \\
    --include 'en/c4-train.0001[0-3]*' \\
    --include 'en/c4-validation.*'
  python -m jax_sparse_pretrain.prepare 'c4/en/c4-train.*' --out=TOKENS \\
    --validation 'c4/en/c4-validation.*' --tokens=2.2e9 \\
    --train_tokenizer=bpe --vocab_size=32000

The paper's tokenizer is Llama 2's: --tokenizer=tokenizer.model, if you have it.

Add `--plan` to print these numbers and stop:

  Linear parameters     41,549,824  N of the dense model
    average             16,422,082  N_avg, 39.5% of dense
    at the end           8,309,965  20.0% of dense
  All parameters        57,940,480

  Steps                      4,048
    pruned from                400  25.0% of compute
    to                       2,000  74.4% of compute
  Tokens             2,122,317,824  D, 524,288 a step
  Compute                2.091e+17  FLOPs, 6 N_avg D
  H100 hours                   0.5  at 40 % of its peak

Hours are model FLOPs / (40 % of a H100's dense bfloat16 peak of 989e12); on n
of them, divide by n. Pruned weights are stored as zeros: they save none of it.

Hyperparameters are the paper's (arXiv 2501.12486); the length is
Chinchilla's 20 tokens a linear parameter, since the paper's is not known.
"""

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults


def get_config() -> ConfigDict:
  """What differs from the recipe in `jax_sparse_pretrain/config.py`."""
  config = ConfigDict(defaults())
  config.batch_size = 256  # rows; x 2,048 = 524,288 tokens a step
  config.accumulation_steps = 8  # 32 rows at a time: at most 32 devices

  config.model.n_layers = 6
  config.model.d_model = 512
  config.model.n_heads = 8  # head_dim 64
  config.model.d_ff = 2048  # 4 d_model

  config.duration.value = 1_600  # dense steps: 20 tokens a linear parameter
  config.optimizer.peak_lr = 6.4e-3
  config.pruning.sparsity = 0.8
  return config
