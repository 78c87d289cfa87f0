"""Times written as numbers or ISO dates, read to one float."""

from datetime import UTC, datetime


def stamp_seconds(text: str) -> float:
    """A number as it stands, an ISO 8601 date as seconds since 1970 (UTC if no zone).

    Raises `ValueError` for anything else, infinities and NaN included.
    """
    try:
        number = float(text)
    except ValueError:
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return moment.timestamp()
    if number - number != 0.0:
        raise ValueError(f"{text!r} is not finite")
    return number
