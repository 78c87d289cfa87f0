"""Three stays and their outcomes in the layout of PhysioNet 2012."""

from pathlib import Path

STAYS = {
    "132540": "00:00,Age,76\n00:00,Gender,1\n00:00,Height,175.3\n00:00,ICUType,2\n"
    "00:00,Weight,80.6\n00:42,pH,7.45\n01:11,HR,88\n01:11,HR,92\n48:00,HR,86\n",
    "132539": "00:00,Age,54\n00:00,Gender,-1\n00:00,Height,-1\n00:00,ICUType,4\n"
    "00:00,Weight,-1\n00:07,HR,73\n00:07,Temp,35.1\n02:30,Weight,-1\n",
    "132541": "00:00,Age,44\n00:00,Gender,0\n00:00,Height,-1\n00:00,ICUType,3\n"
    "00:00,Weight,56.7\n",
}
OUTCOMES = (
    "RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n"
    "132539,6,1,5,-1,0\n132540,16,8,8,3,1\n132541,21,11,19,-1,0\n999,1,1,1,-1,0\n"
)


def write_stays(folder: Path, outcomes: str | None = OUTCOMES) -> Path:
    """A folder with `set-a` of three stays and, unless None, their outcomes."""
    box = folder / "set-a"
    box.mkdir(parents=True)
    for key, rows in STAYS.items():
        text = f"Time,Parameter,Value\n00:00,RecordID,{key}\n{rows}"
        (box / f"{key}.txt").write_text(text)
    if outcomes is not None:
        (folder / "Outcomes-a.txt").write_text(outcomes)
    return folder
