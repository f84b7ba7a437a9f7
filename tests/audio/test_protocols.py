"""Protocol files: three lines of each format, and one malformed line of each."""

from __future__ import annotations

import pytest

from kan_audio.data.protocols import ProtocolRow, read_protocol
from kan_core.errors import KANError

LA19 = """LA_0079 LA_T_1138215 - - bonafide
LA_0079 LA_T_1271820 - A01 spoof
LA_0080 LA_T_1272637 - A06 spoof
"""
LA21 = """LA_0009 LA_E_9332881 alaw ita_tx A07 spoof notrim eval
LA_0020 LA_E_6866159 none - bonafide bonafide notrim progress
LA_0021 LA_E_5464494 g722 loc_tx A19 spoof trim hidden
"""
DF21 = """LA_0023 DF_E_2000011 nocodec asvspoof A14 spoof notrim progress traditional_vocoder - - - -
TEF2 DF_E_2000013 low_m4a vcc2020 Task1-team20 spoof notrim eval neural_vocoder_nonautoregressive Task1 team20 FF E
LA_0043 DF_E_2000026 mp3m4a asvspoof bonafide bonafide notrim eval bonafide - - - -
"""
PA21 = """PA_0010 PA_E_1000001 R1 M1 d1 r1 m1 s1 c1 spoof notrim eval
PA_0010 PA_E_1000002 R2 M2 d2 - - - - bonafide notrim progress
PA_0011 PA_E_1000003 R3 M3 d6 r9 m3 s4 c4 spoof trim hidden
"""
ASV5 = """T_4850 T_0000000000 F - - - AC3 A05 spoof -
T_1591 T_0000000001 M - - - - bonafide bonafide -
E_0001 E_0000000002 F C05 3 1234 AC1 A30 spoof -
"""
ASV5_SHORT = """T_4850 T_0000000000 F - A05 spoof
T_1591 T_0000000001 M - bonafide bonafide
T_1592 T_0000000002 M - A08 spoof
"""
CSV = """path,label,speaker,attack,codec,subset,seconds
a/1.wav,bonafide,anna,,mp3,train,1.5
a/2.wav,spoof,bert,tts-7,,train,2
"b, c/3.wav",spoof,,,,test,3
"""
WILD = """file,speaker,label
0.wav,Alec Guinness,spoof
1.wav,Alec Guinness,spoof
2.wav,Barack Obama,bona-fide
"""

ROWS = {
    LA19: [
        ("LA_T_1138215", "bonafide", "LA_0079", "-", "-", "-", 1),
        ("LA_T_1271820", "spoof", "LA_0079", "A01", "-", "-", 2),
        ("LA_T_1272637", "spoof", "LA_0080", "A06", "-", "-", 3),
    ],
    LA21: [
        ("LA_E_9332881", "spoof", "LA_0009", "A07", "alaw", "eval", 1),
        ("LA_E_6866159", "bonafide", "LA_0020", "-", "-", "progress", 2),
        ("LA_E_5464494", "spoof", "LA_0021", "A19", "g722", "hidden", 3),
    ],
    DF21: [
        ("DF_E_2000011", "spoof", "LA_0023", "A14", "-", "progress", 1),
        ("DF_E_2000013", "spoof", "TEF2", "Task1-team20", "low_m4a", "eval", 2),
        ("DF_E_2000026", "bonafide", "LA_0043", "-", "mp3m4a", "eval", 3),
    ],
    PA21: [
        ("PA_E_1000001", "spoof", "PA_0010", "unknown", "-", "eval", 1),
        ("PA_E_1000002", "bonafide", "PA_0010", "-", "-", "progress", 2),
        ("PA_E_1000003", "spoof", "PA_0011", "unknown", "-", "hidden", 3),
    ],
    ASV5: [
        ("T_0000000000", "spoof", "T_4850", "A05", "-", "-", 1),
        ("T_0000000001", "bonafide", "T_1591", "-", "-", "-", 2),
        ("E_0000000002", "spoof", "E_0001", "A30", "C05", "-", 3),
    ],
    ASV5_SHORT: [
        ("T_0000000000", "spoof", "T_4850", "A05", "-", "-", 1),
        ("T_0000000001", "bonafide", "T_1591", "-", "-", "-", 2),
        ("T_0000000002", "spoof", "T_1592", "A08", "-", "-", 3),
    ],
    CSV: [
        ("a/1.wav", "bonafide", "anna", "-", "mp3", "train", 2),
        ("a/2.wav", "spoof", "bert", "tts-7", "-", "train", 3),
        ("b, c/3.wav", "spoof", None, "unknown", "-", "test", 4),
    ],
    WILD: [
        ("0.wav", "spoof", "Alec Guinness", "unknown", "-", "-", 2),
        ("1.wav", "spoof", "Alec Guinness", "unknown", "-", "-", 3),
        ("2.wav", "bonafide", "Barack Obama", "-", "-", "-", 4),
    ],
}
FORMATS = ["2019-la", "2021-la", "2021-df", "2021-pa", "asvspoof5", "asvspoof5-6-columns", "csv", "in-the-wild"]


def write(tmp_path, text, name="protocol.txt"):
    path = tmp_path / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(("text", "rows"), ROWS.items(), ids=FORMATS)
def test_every_column_is_mapped_by_name(tmp_path, text, rows):
    expected = [
        ProtocolRow(name, name, key, speaker, attack, codec, subset, line)
        for name, key, speaker, attack, codec, subset, line in rows
    ]
    assert read_protocol(write(tmp_path, text)) == expected


@pytest.mark.parametrize("text", ROWS, ids=FORMATS)
def test_a_missing_column_is_refused_with_file_and_line(tmp_path, text):
    lines = text.splitlines()
    last = lines[-1]
    lines[-1] = last.rpartition("," if "," in last else " ")[0]
    path = write(tmp_path, "\n".join(lines))
    with pytest.raises(KANError, match=rf"protocol\.txt, line {len(lines)}: \d+ column\(s\) where the first line has"):
        read_protocol(path)


@pytest.mark.parametrize("text", ROWS, ids=FORMATS)
def test_an_unknown_key_is_an_error_with_file_line_and_value(tmp_path, text):
    lines = text.splitlines()
    at = max(i for i, line in enumerate(lines) if "spoof" in line.replace("asvspoof", ""))
    words = lines[at].replace("asvspoof", "A").replace("spoof", "target")
    path = write(tmp_path, "\n".join([*lines[:at], words, *lines[at + 1 :]]))
    with pytest.raises(KANError, match=rf"protocol\.txt, line {at + 1}: the key of .* is 'target': use bonafide or sp"):
        read_protocol(path)


@pytest.mark.parametrize("text", ROWS, ids=FORMATS)
def test_an_id_that_stands_twice_is_refused_with_both_lines(tmp_path, text):
    lines = text.splitlines()
    path = write(tmp_path, "\n".join([*lines, lines[-1]]))
    with pytest.raises(KANError, match=rf"line {len(lines) + 1}: the id .* stands in line {len(lines)} already"):
        read_protocol(path)


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 7, 9, 11, 14])
def test_another_number_of_columns_is_no_protocol(tmp_path, columns):
    path = write(tmp_path, " ".join(["x"] * columns))
    with pytest.raises(KANError, match=rf"line 1: {columns} column\(s\) are no known protocol"):
        read_protocol(path)


def test_asvspoof5_tsv_is_split_at_any_white_space(tmp_path):
    spaced = read_protocol(write(tmp_path, ASV5, "ASVspoof5.train.tsv"))
    assert spaced == read_protocol(write(tmp_path, ASV5.replace(" ", "\t"), "tabs.tsv"))


@pytest.mark.parametrize("text", [LA21, DF21, PA21], ids=["la", "df", "pa"])
def test_a_2021_subset_that_does_not_exist_is_refused(tmp_path, text):
    with pytest.raises(KANError, match=r"line \d: the subset of .* is 'dev': use progress, eval, hidden"):
        read_protocol(write(tmp_path, text.replace(" eval", " dev")))


def test_bona_fide_speech_with_an_attack_is_refused(tmp_path):
    path = write(tmp_path, LA19 + "LA_0079 LA_T_1 - A02 bonafide\n")
    with pytest.raises(KANError, match="line 4: LA_T_1 is bona fide and yet has the attack A02"):
        read_protocol(path)


def test_csv_with_id_and_path_keeps_both(tmp_path):
    (row,) = read_protocol(write(tmp_path, "id,path,key\nu1,some/where.flac,spoof\n"))
    assert (row.id, row.path) == ("u1", "some/where.flac")


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("name,label", r"no column id or path \(or file\)"),
        ("path,class", "no column label or key"),
        ("path,label,key", "two columns for key"),
    ],
)
def test_a_csv_header_must_name_its_columns(tmp_path, header, message):
    with pytest.raises(KANError, match=rf"line 1: .*{message}"):
        read_protocol(write(tmp_path, f"{header}\na,spoof\n"))


def test_csv_row_without_a_name_is_refused(tmp_path):
    with pytest.raises(KANError, match="line 3: the utterance has no name"):
        read_protocol(write(tmp_path, "path,label\na.wav,spoof\n,spoof\n"))


def test_byte_order_mark_and_windows_lines_are_read(tmp_path):
    path = tmp_path / "protocol.csv"
    path.write_bytes(b"\xef\xbb\xbf" + WILD.replace("\n", "\r\n").encode())
    assert [row.id for row in read_protocol(path)] == ["0.wav", "1.wav", "2.wav"]


def test_missing_empty_and_binary_files_are_one_line_errors(tmp_path):
    with pytest.raises(KANError, match="no such protocol file"):
        read_protocol(tmp_path / "absent.txt")
    with pytest.raises(KANError, match="is empty"):
        read_protocol(write(tmp_path, "\n\n"))
    (tmp_path / "sound.txt").write_bytes(b"RIFF\xff\xfe\x00")
    with pytest.raises(KANError, match="is not text"):
        read_protocol(tmp_path / "sound.txt")


def test_the_real_vocoder_protocol(shared_data):
    rows = read_protocol(shared_data("ljspeech-vocoded") / "protocol.txt")
    assert len(rows) == 60
    assert sum(row.key == "bonafide" for row in rows) == 25
    assert len({row.attack for row in rows} - {"-"}) == 7
