"""The compiled module: CPU level and addresses of contiguous float32 arrays in, nothing out. See core/native.py."""

COMPILER: str
FLAGS: str

def best_level() -> int: ...
def point_adam(
    level: int,
    size: int,
    gradient: int,
    latent: int,
    first: int,
    second: int,
    weights: int,
    *,
    rate: float,
    beta1: float,
    beta2: float,
    root: float,
    eps: float,
    bound: float,
) -> None: ...
def point_bop(
    level: int, size: int, gradient: int, signs: int, average: int, *, adaptivity: float, threshold: float
) -> None: ...
def bernoulli_draw(
    level: int,
    size: int,
    natural: int,
    weights: int,
    factor: int,
    *,
    key: tuple[int, int],
    temperature: float,
    bound: float,
    published: bool,
    floor: float,
    damping: float,
) -> None: ...
def bernoulli_step(
    level: int,
    size: int,
    gradient: int,
    prior: int,
    natural: int,
    velocity: int,
    weights: int,
    factor: int,
    *,
    key: tuple[int, int],
    temperature: float,
    bound: float,
    published: bool,
    floor: float,
    damping: float,
    scale: float,
    rate: float,
    momentum: float,
    decay: float,
) -> None: ...
def bernoulli_moments(level: int, size: int, natural: int, mean: int, variance: int) -> None: ...
def bernoulli_pull_back(
    level: int, size: int, mean: int, variance: int, by_mean: int, by_variance: int, pulled: int
) -> None: ...
def lowrank_draw(level: int, size: int, rank: int, rows: int, coefficients: int, weights: int) -> None: ...
def lowrank_step(
    level: int,
    size: int,
    rank: int,
    gradient: int,
    used: int,
    coefficients: int,
    rows: int,
    velocity: int,
    weights: int,
    *,
    scale: float,
    rate: float,
    momentum: float,
    decay: float,
    unit: bool,
) -> None: ...
