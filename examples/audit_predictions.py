"""Judge somebody else's predictions: here naive Bayes on digits, a model known to be too sure.

    python examples/audit_predictions.py

All that `audit` needs are two arrays: scores [N, K] and labels [N]. Say whether the scores are
logits (`Outputs.from_logits`) or probabilities; it never guesses.
"""

from __future__ import annotations

from typing import Any

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB

from levelhead import Outputs, audit


def main() -> dict[str, Any]:
    """Print the audit's words, and the calibration error with its interval."""
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.5, stratify=labels, random_state=0
    )
    model = GaussianNB(var_smoothing=1e-3).fit(train_x, train_y)
    # The joint log-likelihoods are logits: their softmax is the model's predict_proba.
    outputs = Outputs.from_logits(model.predict_joint_log_proba(test_x), test_y)
    found = audit(outputs)
    print("\n".join(found["words"]))
    ece = found["metrics"]["ece"]
    print(f"ECE {ece['value']:.4f}, 95 % interval {ece['low']:.4f} to {ece['high']:.4f}")
    return found


if __name__ == "__main__":
    main()
