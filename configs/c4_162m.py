"""The 162M model of the paper on C4, pruned to 80 %.

  python -m jax_sparse_pretrain.train --config=configs/c4_162m.py \\
    --workdir=DIR --config.data.path=TOKENS

Its tokens come from 50 of the 1,024 files of C4, once, on any machine:

  hf download allenai/c4 --repo-type=dataset --local-dir=c4 \\
    --include 'en/c4-train.000[0-4]*' \\
    --include 'en/c4-validation.*'
  python -m jax_sparse_pretrain.prepare 'c4/en/c4-train.*' --out=TOKENS \\
    --validation 'c4/en/c4-validation.*' --tokens=7.0e9 \\
    --train_tokenizer=bpe --vocab_size=32000

The paper's tokenizer is Llama 2's: --tokenizer=tokenizer.model, if you have it.

Add `--plan` to print these numbers and stop:

  Linear parameters    137,822,208  N of the dense model
    average             55,008,659  N_avg, 39.9% of dense
    at the end          27,564,442  20.0% of dense
  All parameters       162,417,408

  Steps                     13,279
    pruned from              1,325  25.0% of compute
    to                       6,675  75.1% of compute
  Tokens             6,962,020,352  D, 524,288 a step
  Compute                2.298e+18  FLOPs, 6 N_avg D
  H100 hours                   5.1  at 40 % of its peak

Hours are model FLOPs / (40 % of a H100's dense bfloat16 peak of 989e12); on n
of them, divide by n. Pruned weights are stored as zeros: they save none of it.

Hyperparameters are the paper's (arXiv 2501.12486); the length is
Chinchilla's 20 tokens a linear parameter and the batch that of the 58M model,
since the paper's are not known.
"""

from ml_collections import ConfigDict

from jax_sparse_pretrain.config import defaults


def get_config() -> ConfigDict:
  """What differs from the recipe in `jax_sparse_pretrain/config.py`."""
  config = ConfigDict(defaults())
  config.batch_size = 256  # rows; x 2,048 = 524,288 tokens a step
  config.accumulation_steps = 8  # 32 rows at a time: at most 32 devices

  config.model.n_layers = 12
  config.model.d_model = 768
  config.model.n_heads = 12  # head_dim 64
  config.model.d_ff = 3072  # 4 d_model

  config.duration.value = 5_300  # dense steps: 20 tokens a linear parameter
  config.optimizer.peak_lr = 1.58e-3  # 0.3118 C^-0.125, C the FLOPs
  config.pruning.sparsity = 0.8
  return config
