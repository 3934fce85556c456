from .base import Codec as Codec
from .hihpq import HiHPQCodec as HiHPQCodec
from .pq import PQCodec as PQCodec
