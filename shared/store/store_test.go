package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rucflow/rucflow/shared/ruc"
	"github.com/rucflow/rucflow/shared/store"
	"github.com/rucflow/rucflow/shared/store/storetest"
)

const testBytes = 1 << 20

func TestMemory_Conforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (storetest.Store, func(time.Duration)) {
		clock := storetest.NewClock()
		m, err := store.NewMemory(testBytes, clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = m.Close() })
		return m, clock.Advance
	})
}

func newFile(t *testing.T, dir string, maxBytes int64) (*store.File, *storetest.Clock) {
	t.Helper()
	clock := storetest.NewClock()
	f, err := store.NewFile(dir, maxBytes, clock.Now)
	if err != nil {
		t.Fatal(err)
	}
	return f, clock
}

func TestFile_Conforms(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (storetest.Store, func(time.Duration)) {
		f, clock := newFile(t, t.TempDir(), testBytes)
		return f, clock.Advance
	})
}

// twoFiles reads and deletes through one process's view of a folder and writes
// through another's.
type twoFiles struct {
	*store.File
	second *store.File
}

func (f twoFiles) Put(ctx context.Context, entries []store.Entry) error {
	return f.second.Put(ctx, entries)
}

func TestFile_ConformsOnASharedFolder(t *testing.T) {
	storetest.Run(t, func(t *testing.T) (storetest.Store, func(time.Duration)) {
		dir := t.TempDir()
		first, clock := newFile(t, dir, testBytes)
		second, err := store.NewFile(dir, testBytes, clock.Now)
		if err != nil {
			t.Fatal(err)
		}
		return twoFiles{first, second}, clock.Advance
	})
}

func put(t *testing.T, f *store.File, i int, ttl time.Duration) ruc.Number {
	t.Helper()
	n := ruc.FromPrefix(fmt.Sprintf("20%08d", i))
	e := store.Entry{RUC: n, Value: make([]byte, 1000), Version: store.Version{Epoch: 1, Seq: uint64(i + 1)}, TTL: ttl}
	if err := f.Put(t.Context(), []store.Entry{e}); err != nil {
		t.Fatal(err)
	}
	return n
}

func held(t *testing.T, f *store.File, n ruc.Number) bool {
	t.Helper()
	_, ok, err := f.Get(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return ok
}

func TestFile_KeepsAcrossARestart(t *testing.T) {
	dir := t.TempDir()
	f, _ := newFile(t, dir, testBytes)
	n := put(t, f, 1, time.Hour)
	again, _ := newFile(t, dir, testBytes)
	if !held(t, again, n) {
		t.Error("the answer is gone after a restart")
	}
}

func TestFile_SweepRemovesTheExpiredAndKeepsTheBound(t *testing.T) {
	dir := t.TempDir()
	f, clock := newFile(t, dir, 20_000)
	expired := put(t, f, 0, time.Second)
	var numbers []ruc.Number
	for i := 1; i <= 40; i++ {
		numbers = append(numbers, put(t, f, i, time.Duration(i)*time.Hour))
	}
	clock.Advance(2 * time.Second)
	if err := f.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if held(t, f, expired) || held(t, f, numbers[0]) {
		t.Error("what expires soonest survived a sweep beyond the bound")
	}
	if !held(t, f, numbers[39]) {
		t.Error("what expires last was removed")
	}
	var total int64
	for _, path := range glob(t, dir, "*/*.json") {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		total += info.Size()
	}
	if total > 20_000 || total < 10_000 {
		t.Errorf("%d bytes left of a bound of 20000", total)
	}
}

func TestFile_ADamagedFileIsAnErrorUntilReplaced(t *testing.T) {
	for name, content := range map[string]string{
		"empty":     "",
		"no head":   "{}",
		"wrong":     "rucflow1 x y z\n{}",
		"truncated": "rucflow1 1 1 99999999999999 50\n{}",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			f, _ := newFile(t, dir, testBytes)
			n := put(t, f, 1, time.Hour)
			path := glob(t, dir, "*/*.json")[0]
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, ok, err := f.Get(t.Context(), n); err == nil || ok {
				t.Fatalf("Get of a damaged file = %v, %v", ok, err)
			}
			put(t, f, 1, time.Hour)
			if !held(t, f, n) {
				t.Error("a damaged file was not replaced")
			}
		})
	}
}

func TestFile_AFolderInTheWayIsRefusedAndLeavesTheOthers(t *testing.T) {
	dir := t.TempDir()
	f, _ := newFile(t, dir, testBytes)
	n := put(t, f, 1, time.Hour)
	path := glob(t, dir, "*/*.json")[0]
	if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	other := storetest.Numbers(1)[0]
	err := f.Put(t.Context(), []store.Entry{entry(n, "a", 2), entry(other, "b", 2)})
	if !errors.Is(store.EntryError(err, 0), store.ErrRefused) || store.EntryError(err, 1) != nil || strings.Contains(err.Error(), n.String()) {
		t.Errorf("Put = %v", err)
	}
	if !held(t, f, other) {
		t.Error("the other entry was not kept")
	}
}

func TestFile_WhatCannotBeWrittenIsToBePutAgain(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "cache")
	f, _ := newFile(t, dir, testBytes)
	if err := errors.Join(os.Remove(dir), os.WriteFile(dir, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	err := f.Put(t.Context(), []store.Entry{entry(number, "a", 1)})
	if err == nil || errors.Is(err, store.ErrRefused) {
		t.Errorf("Put = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := f.Put(ctx, []store.Entry{entry(number, "a", 1)}); !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrRefused) {
		t.Errorf("Put of a caller who left = %v", err)
	}
}

func TestFile_SweepRemovesDamagedAndOrphanedFiles(t *testing.T) {
	dir := t.TempDir()
	f, clock := newFile(t, dir, testBytes)
	put(t, f, 1, time.Hour)
	path := glob(t, dir, "*/*.json")[0]
	orphan := filepath.Join(filepath.Dir(path), ".20000000001.json123")
	for _, p := range []string{path, orphan} {
		if err := os.WriteFile(p, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	old := clock.Now().Add(-2 * time.Hour)
	if err := os.Chtimes(orphan, old, old); err != nil {
		t.Fatal(err)
	}
	if err := f.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{path, orphan} {
		if _, err := os.Stat(p); err == nil {
			t.Errorf("%s is still there", filepath.Base(p))
		}
	}
}

func glob(t *testing.T, dir, pattern string) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(paths) == 0 {
		t.Fatalf("glob %s: %v, %d files", pattern, err, len(paths))
	}
	return paths
}

// Errors end in logs, where a person's number does not belong.
func TestFile_ErrorsNameNoPerson(t *testing.T) {
	dir := t.TempDir()
	f, err := store.NewFile(dir, 1<<20, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	person := ruc.FromPrefix("1040123456")
	entry := store.Entry{RUC: person, Value: []byte("a"), Version: store.Version{Seq: 1}, TTL: time.Hour}
	if err := f.Put(t.Context(), []store.Entry{entry}); err != nil {
		t.Fatal(err)
	}
	path := ""
	err = filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if strings.Contains(filepath.Base(p), person.String()) {
			path = p
		}
		return err
	})
	if err != nil || path == "" {
		t.Fatalf("no file of the number: %v", err)
	}
	for _, how := range []string{"damaged", "a folder"} {
		err := os.WriteFile(path, []byte("x"), 0o600)
		if how == "a folder" {
			err = errors.Join(os.RemoveAll(path), os.MkdirAll(filepath.Join(path, "x"), 0o700))
		}
		if err != nil {
			t.Fatal(err)
		}
		_, _, get := f.Get(t.Context(), person)
		errs := []error{get, f.Put(t.Context(), []store.Entry{entry}), f.Delete(t.Context(), person), f.Sweep(t.Context())}
		if get == nil {
			t.Errorf("%s: it could be read", how)
		}
		for _, err := range errs {
			if err != nil && strings.Contains(err.Error(), person.String()) {
				t.Errorf("%s: %v", how, err)
			}
		}
	}
}
