"""Judge somebody else's predictions: here scikit-learn's logistic regression on digits.

    python examples/audit_predictions.py

All that `audit` needs are two arrays: scores [N, K] and labels [N]. Say whether the scores are
logits (`Outputs.from_logits`) or probabilities (`Outputs.from_probabilities`); it never guesses.
"""

from __future__ import annotations

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from levelhead import Outputs, audit
from levelhead.judging import Audited


def main() -> Audited:
    """Print the audit's words, and the calibration error with its interval."""
    images, labels = load_digits(return_X_y=True)
    train_x, test_x, train_y, test_y = train_test_split(
        images, labels, test_size=0.5, stratify=labels, random_state=0
    )
    # Hardly any penalty: such a model is surer than it should be.
    model = LogisticRegression(C=100, max_iter=3000).fit(train_x, train_y)
    outputs = Outputs.from_logits(model.decision_function(test_x), test_y)
    result = audit(outputs)
    print("\n".join(result.words))
    ece = result.metrics["ece"]
    print(f"ECE {ece.value:.4f}, 95 % interval {ece.low:.4f} to {ece.high:.4f}")
    return result


if __name__ == "__main__":
    main()
