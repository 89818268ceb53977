"""Problems with known posteriors, and how far a method is from them."""

from bayesify.exactness.calibration import Calibration as Calibration
from bayesify.exactness.check import check_method as check_method
from bayesify.exactness.check import known_problems as known_problems
from bayesify.exactness.closeness import DEFAULT_SETS as DEFAULT_SETS
from bayesify.exactness.closeness import Closeness as Closeness
from bayesify.exactness.closeness import RealProblem as RealProblem
from bayesify.exactness.closeness import problem_of as problem_of
from bayesify.exactness.conjugate import LinearRegression as LinearRegression
from bayesify.exactness.conjugate import linear_regression as linear_regression
from bayesify.exactness.known import KnownPosterior as KnownPosterior
from bayesify.exactness.logistic import LogisticRegression as LogisticRegression
from bayesify.exactness.logistic import logistic_regression as logistic_regression
from bayesify.exactness.result import CheckResult as CheckResult
from bayesify.exactness.result import ProblemCheck as ProblemCheck
from bayesify.exactness.sbc import calibrate as calibrate
from bayesify.exactness.simulation import Simulator as Simulator
from bayesify.exactness.simulation import small_network as small_network
