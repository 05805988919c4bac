"""banking77 as domains: which intents belong together, and the rows of each, embedded."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from moatelier.ids import digest_bytes
from serving.prototypes import Vectors

NARROW = {
    "cards": "card_arrival card_delivery_estimate activate_my_card order_physical_card getting_spare_card "
    "card_about_to_expire",
    "exchange": "exchange_charge exchange_rate exchange_via_app fiat_currency_support",
    "cash": "cash_withdrawal_charge cash_withdrawal_not_recognised declined_cash_withdrawal pending_cash_withdrawal "
    "wrong_amount_of_cash_received atm_support",
    "transfers": "beneficiary_not_allowed cancel_transfer failed_transfer pending_transfer transfer_fee_charged "
    "transfer_timing transfer_not_received_by_recipient",
    "top_ups": "automatic_top_up pending_top_up top_up_failed top_up_limits top_up_reverted verify_top_up",
    "identity": "unable_to_verify_identity verify_my_identity verify_source_of_funds why_verify_identity age_limit "
    "edit_personal_details",
}
FURTHER = {
    "cards": "get_physical_card getting_virtual_card get_disposable_virtual_card disposable_card_limits "
    "virtual_card_not_working card_not_working card_linking card_swallowed lost_or_stolen_card compromised_card "
    "change_pin pin_blocked contactless_not_working visa_or_mastercard apple_pay_or_google_pay",
    "exchange": "card_payment_wrong_exchange_rate wrong_exchange_rate_for_cash_withdrawal country_support "
    "supported_cards_and_currencies card_acceptance",
    "cash": "card_payment_fee_charged card_payment_not_recognised declined_card_payment pending_card_payment "
    "reverted_card_payment? extra_charge_on_statement transaction_charged_twice request_refund "
    "direct_debit_payment_not_recognised Refund_not_showing_up",
    "transfers": "balance_not_updated_after_bank_transfer declined_transfer receiving_money transfer_into_account",
    "top_ups": "balance_not_updated_after_cheque_or_cash_deposit top_up_by_bank_transfer_charge top_up_by_card_charge "
    "top_up_by_cash_or_cheque topping_up_by_card",
    "identity": "lost_or_stolen_phone passcode_forgotten terminate_account",
}
ALL = {domain: f"{NARROW[domain]} {FURTHER[domain]}" for domain in NARROW}


class Rows(NamedTuple):
    """Embedded rows `[rows, dims]`, the intent of each, and the place of its domain in sorted order."""

    vectors: Vectors
    intents: Any
    owners: Any

    def at(self, places: Any) -> "Rows":
        """Some of the rows."""
        return Rows(self.vectors[places], self.intents[places], self.owners[places])


def read(path: Path, *, reported: bool = False) -> list[tuple[str, str]]:
    """(text, intent) of a file's rows; with `reported` those with an odd hash."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["category"]) for row in csv.DictReader(file)]
    return [row for row in rows if not reported or int(digest_bytes(row[0].encode())[-1], 16) % 2]


def rows_of(rows: list[tuple[str, str]], vectors: Vectors, domains: dict[str, str]) -> Rows:
    """The rows that belong to these domains."""
    owner = {intent: place for place, domain in enumerate(sorted(domains)) for intent in domains[domain].split()}
    kept = [place for place, (_, intent) in enumerate(rows) if intent in owner]
    intents = np.array([rows[place][1] for place in kept])
    return Rows(vectors[kept], intents, np.array([owner[intent] for intent in intents]))
