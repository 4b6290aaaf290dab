// Checks what our code proved and signed with golang.org/x/mod/sumdb, and proves and signs for our code to check.
// One JSON document in, one out; byte strings are base64, as encoding/json has them.
package main

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8

type inclusion struct {
	Index, Size int64
	Root, Leaf  []byte
	Proof       [][]byte
}

type consistency struct {
	Old, New         int64
	OldRoot, NewRoot []byte
	Proof            [][]byte
}

type signed struct{ Vkey, Note string }

type tree struct {
	Data       [][]byte
	Index, Old int64
}

type tile struct {
	Level, Width int
	Index        int64
	Data         []byte
}

type proved struct {
	Inclusion   inclusion
	Consistency consistency
	Tiles       []tile
}

type input struct {
	Inclusions    []inclusion
	Consistencies []consistency
	Notes         []signed
	Trees         []tree
	Texts         []string
}

type output struct {
	Inclusions, Consistencies []bool
	Opened                    []string
	Trees                     []proved
	Notes                     []signed
}

type stored []tlog.Hash

func (s stored) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, at := range indexes {
		if at < 0 || at >= int64(len(s)) {
			return nil, fmt.Errorf("no stored hash %d", at)
		}
		out = append(out, s[at])
	}
	return out, nil
}

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func one(b []byte) (h tlog.Hash) {
	if len(b) != len(h) {
		must(fmt.Errorf("a hash of %d bytes", len(b)))
	}
	copy(h[:], b)
	return h
}

func many(all [][]byte) (out []tlog.Hash) {
	for _, b := range all {
		out = append(out, one(b))
	}
	return out
}

func plain(hashes []tlog.Hash) [][]byte {
	out := [][]byte{}
	for i := range hashes {
		out = append(out, hashes[i][:])
	}
	return out
}

func prove(t tree) proved {
	var hashes stored
	for n, data := range t.Data {
		added, err := tlog.StoredHashes(int64(n), data, hashes)
		must(err)
		hashes = append(hashes, added...)
	}
	size := int64(len(t.Data))
	root, err := tlog.TreeHash(size, hashes)
	must(err)
	oldRoot, err := tlog.TreeHash(t.Old, hashes)
	must(err)
	record, err := tlog.ProveRecord(size, t.Index, hashes)
	must(err)
	grown, err := tlog.ProveTree(size, t.Old, hashes)
	must(err)
	leaf := tlog.RecordHash(t.Data[t.Index])
	made := proved{
		Inclusion:   inclusion{t.Index, size, root[:], leaf[:], plain(record)},
		Consistency: consistency{t.Old, size, oldRoot[:], root[:], plain(grown)},
	}
	for _, place := range tlog.NewTiles(tileHeight, 0, size) {
		data, err := tlog.ReadTileData(place, hashes)
		must(err)
		made.Tiles = append(made.Tiles, tile{place.L, place.W, place.N, data})
	}
	return made
}

func main() {
	var in input
	must(json.NewDecoder(os.Stdin).Decode(&in))
	var out output
	for _, c := range in.Inclusions {
		err := tlog.CheckRecord(many(c.Proof), c.Size, one(c.Root), c.Index, one(c.Leaf))
		out.Inclusions = append(out.Inclusions, err == nil)
	}
	for _, c := range in.Consistencies {
		err := tlog.CheckTree(many(c.Proof), c.New, one(c.NewRoot), c.Old, one(c.OldRoot))
		out.Consistencies = append(out.Consistencies, err == nil)
	}
	for _, s := range in.Notes {
		verifier, err := note.NewVerifier(s.Vkey)
		must(err)
		opened, err := note.Open([]byte(s.Note), note.VerifierList(verifier))
		if err != nil {
			out.Opened = append(out.Opened, "")
			continue
		}
		out.Opened = append(out.Opened, opened.Text)
	}
	for _, t := range in.Trees {
		out.Trees = append(out.Trees, prove(t))
	}
	for _, text := range in.Texts {
		skey, vkey, err := note.GenerateKey(rand.Reader, "go.example.com/log")
		must(err)
		signer, err := note.NewSigner(skey)
		must(err)
		made, err := note.Sign(&note.Note{Text: text}, signer)
		must(err)
		out.Notes = append(out.Notes, signed{vkey, string(made)})
	}
	must(json.NewEncoder(os.Stdout).Encode(out))
}
