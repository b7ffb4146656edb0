"""The types of what `__init__.py` imports lazily."""

from frspec_cli.answers.options import CollectOptions as CollectOptions
from frspec_cli.api.drafts import TrainedHead as TrainedHead
from frspec_cli.api.drafts import collect as collect
from frspec_cli.api.drafts import diagnose_head as diagnose_head
from frspec_cli.api.drafts import replay_answers as replay_answers
from frspec_cli.api.drafts import train_draft as train_draft
from frspec_cli.api.drafts import tune as tune
from frspec_cli.api.drafts import verify as verify
from frspec_cli.api.vocabularies import build_vocab as build_vocab
from frspec_cli.api.vocabularies import count_freq as count_freq
from frspec_cli.api.vocabularies import coverage as coverage
from frspec_cli.api.vocabularies import export_vocab as export_vocab
from frspec_cli.api.vocabularies import import_vocab as import_vocab
from frspec_cli.corpus.options import Selection as Selection
from frspec_cli.counting.options import CountOptions as CountOptions
from frspec_cli.counting.options import RunOptions as RunOptions
from frspec_cli.counting.table import FrequencyTable as FrequencyTable
from frspec_cli.decoding.engine import Engine as Engine
from frspec_cli.decoding.generation import Generation as Generation
from frspec_cli.decoding.options import GenerateOptions as GenerateOptions
from frspec_cli.decoding.options import TreeConfig as TreeConfig
from frspec_cli.decoding.pipeline import Pipeline as Pipeline
from frspec_cli.decoding.pipeline import generate as generate
from frspec_cli.decoding.pipeline import load_pipeline as load_pipeline
from frspec_cli.decoding.sampling import Sampling as Sampling
from frspec_cli.doctor.options import DoctorOptions as DoctorOptions
from frspec_cli.errors import FrspecError as FrspecError
from frspec_cli.heads.checkpoint import load_head as load_head
from frspec_cli.heads.head import EagleHead as EagleHead
from frspec_cli.models.target import Target as Target
from frspec_cli.models.target import load_target as load_target
from frspec_cli.progress import Callbacks as Callbacks
from frspec_cli.replay.options import ReplayOptions as ReplayOptions
from frspec_cli.subsets.build import Builder as Builder
from frspec_cli.subsets.load import load_subset as load_subset
from frspec_cli.subsets.mix import NamedTable as NamedTable
from frspec_cli.subsets.recipe import Recipe as Recipe
from frspec_cli.subsets.subset import VocabularySubset as VocabularySubset
from frspec_cli.tokens.tokenizer import load_tokenizer as load_tokenizer
from frspec_cli.training.options import RunSettings as RunSettings
from frspec_cli.training.options import TrainOptions as TrainOptions
from frspec_cli.tuning.options import TuneOptions as TuneOptions
from frspec_cli.verification.options import VerifyOptions as VerifyOptions

__version__: str
INTERRUPTED: int
